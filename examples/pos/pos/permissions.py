"""Who may change what: tills carry a token, people sign in."""

from django.conf import settings
from django.utils.crypto import constant_time_compare
from rest_framework.permissions import SAFE_METHODS, BasePermission


class TillPermission(BasePermission):
    """Everyone may look; changing needs POS_API_TOKEN (when one is set) or a signed-in member of staff."""

    def has_permission(self, request, view) -> bool:
        if request.method in SAFE_METHODS or not settings.POS_API_TOKEN or request.user.is_staff:
            return True
        return constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {settings.POS_API_TOKEN}")
