"""What the owner of the shop may change without a new release."""

from django.db import models


class Shop(models.Model):
    name = models.CharField(max_length=80, default="Corner Shop")
    currency = models.CharField(max_length=3, default="EUR")
    receipt_footer = models.CharField(max_length=200, blank=True)

    @classmethod
    def current(cls) -> "Shop":
        return cls.objects.first() or cls()

    def __str__(self) -> str:
        return self.name
