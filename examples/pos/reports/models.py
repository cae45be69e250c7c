"""What the workers make: reports, and a sign of life."""

from django.db import models
from django.utils import timezone


class Report(models.Model):
    day = models.DateField(default=timezone.localdate)
    sales = models.PositiveIntegerField(null=True, editable=False)
    total = models.DecimalField(max_digits=14, decimal_places=2, null=True, editable=False)
    # How often a worker has begun it: more than once after a worker was lost in the middle.
    runs = models.PositiveIntegerField(default=0, editable=False)
    release = models.CharField(max_length=80, blank=True, editable=False)
    asked_at = models.DateTimeField(auto_now_add=True)
    built_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"sales of {self.day}"


class Heartbeat(models.Model):
    """One row for each tick of beat that a worker has carried out."""

    release = models.CharField(max_length=80)
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.release}"
