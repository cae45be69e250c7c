"""The page for people, and the slow answer for load tests."""

import time

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from inventory.models import Product
from sales.models import Sale
from settings.models import Shop

LONGEST_WAIT = 3.0


def index(request: HttpRequest) -> HttpResponse:
    context = {
        "shop": Shop.current(),
        "release": settings.RELEASE_ID,
        "products": Product.objects.count(),
        "sales": Sale.objects.count(),
    }
    return render(request, "pos/index.html", context)


def slow(request: HttpRequest) -> JsonResponse:
    """Answer after ?seconds= (3 at most); only where POS_SLOW=1, for everyone can keep a worker busy with it."""
    if not settings.POS_SLOW:
        raise Http404
    try:
        seconds = min(max(float(request.GET.get("seconds", "1")), 0.0), LONGEST_WAIT)
    except ValueError:
        return JsonResponse({"seconds": "not a number"}, status=400)
    time.sleep(seconds)
    return JsonResponse({"seconds": seconds, "release": settings.RELEASE_ID})
