"""Something to sell from the first minute on."""

from django.db import migrations

PRODUCTS = {
    "Drinks": {"coffee": ("Coffee", "2.80"), "tea": ("Tea", "2.20")},
    "Bakery": {"croissant": ("Croissant", "1.90"), "cake": ("Cheese cake", "4.50")},
}


def add(apps, schema_editor):
    Category, Product = apps.get_model("inventory", "Category"), apps.get_model("inventory", "Product")
    for category_name, products in PRODUCTS.items():
        category = Category.objects.create(name=category_name)
        for sku, (name, price) in products.items():
            Product.objects.create(sku=sku, name=name, price=price, category=category)


class Migration(migrations.Migration):
    dependencies = [("inventory", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
