from django.contrib import admin

from settings.models import Shop


@admin.register(Shop)
class ShopAdmin(admin.ModelAdmin):
    def has_add_permission(self, request) -> bool:
        return not Shop.objects.exists()
