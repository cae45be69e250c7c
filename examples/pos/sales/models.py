"""What the shop has sold."""

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models

from inventory.models import Product


class Sale(models.Model):
    # The till makes it up before it sends, so that a sale sent twice is stored once.
    uid = models.CharField(max_length=64, unique=True)
    product = models.ForeignKey(Product, models.PROTECT, related_name="sales")
    quantity = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    total = models.DecimalField(max_digits=12, decimal_places=2)
    note = models.CharField(max_length=200, blank=True)
    cashier = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True)
    sold_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.quantity} × {self.product}"
