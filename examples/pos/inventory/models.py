"""What the shop sells."""

from django.core.validators import FileExtensionValidator, MinValueValidator
from django.db import models


class Category(models.Model):
    name = models.CharField(max_length=60, unique=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "categories"

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    sku = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=120)
    category = models.ForeignKey(Category, models.PROTECT, related_name="products")
    price = models.DecimalField(max_digits=10, decimal_places=2, validators=[MinValueValidator(0)])
    photo = models.FileField(
        upload_to="products/", blank=True, validators=[FileExtensionValidator(["jpg", "jpeg", "png", "webp"])]
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
