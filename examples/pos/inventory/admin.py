from django.contrib import admin

from inventory.models import Category, Product

admin.site.register(Category)


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("name", "sku", "category", "price")
    list_filter = ("category",)
    search_fields = ("name", "sku")
