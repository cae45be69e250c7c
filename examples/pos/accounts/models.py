"""The people who work in the shop."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    class Role(models.TextChoices):
        CASHIER = "cashier"
        MANAGER = "manager"

    role = models.CharField(max_length=10, choices=Role, default=Role.CASHIER)
