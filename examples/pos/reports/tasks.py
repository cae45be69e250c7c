"""What workers do: `build` on the queue `reports`, `tick` on the default queue whenever beat says so."""

import time
from datetime import timedelta
from decimal import Decimal

from celery import shared_task
from django.conf import settings
from django.db.models import Count, F, Sum
from django.utils import timezone

from reports.models import Heartbeat, Report
from sales.models import Sale


@shared_task
def build(report_id: int, seconds: float = 0) -> None:
    Report.objects.filter(pk=report_id).update(runs=F("runs") + 1)
    time.sleep(seconds)
    report = Report.objects.get(pk=report_id)
    found = Sale.objects.filter(sold_at__date=report.day).aggregate(sales=Count("pk"), total=Sum("total"))
    report.sales, report.total = found["sales"], found["total"] or Decimal(0)
    report.release, report.built_at = settings.RELEASE_ID, timezone.now()
    report.save()


@shared_task
def tick() -> None:
    Heartbeat.objects.create(release=settings.RELEASE_ID)
    Heartbeat.objects.filter(at__lt=timezone.now() - timedelta(days=1)).delete()
