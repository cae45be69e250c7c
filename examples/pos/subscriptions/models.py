"""Customers who pay by the month."""

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone


class Plan(models.Model):
    name = models.CharField(max_length=60, unique=True)
    monthly_price = models.DecimalField(max_digits=10, decimal_places=2, validators=[MinValueValidator(0)])

    def __str__(self) -> str:
        return self.name


class Subscription(models.Model):
    customer = models.CharField(max_length=120)
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="subscriptions")
    starts_on = models.DateField(default=timezone.localdate)
    ends_on = models.DateField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.customer}: {self.plan}"
