from django.contrib import admin

from sales.models import Sale


@admin.register(Sale)
class SaleAdmin(admin.ModelAdmin):
    list_display = ("uid", "product", "quantity", "total", "cashier", "sold_at")
    list_select_related = ("product", "cashier")
    date_hierarchy = "sold_at"
    search_fields = ("uid",)
