"""/api/categories/ and /api/products/ (PATCH a product to change its price, or its photo as a form upload)."""

from rest_framework.mixins import ListModelMixin, RetrieveModelMixin, UpdateModelMixin
from rest_framework.serializers import ModelSerializer, SlugRelatedField
from rest_framework.viewsets import GenericViewSet, ReadOnlyModelViewSet

from inventory.models import Category, Product


class CategorySerializer(ModelSerializer):
    class Meta:
        model = Category
        fields = ("id", "name")


class ProductSerializer(ModelSerializer):
    category = SlugRelatedField(slug_field="name", queryset=Category.objects.all())

    class Meta:
        model = Product
        fields = ("sku", "name", "category", "price", "photo")


class CategoryViewSet(ReadOnlyModelViewSet):
    queryset = Category.objects.all()
    serializer_class = CategorySerializer


class ProductViewSet(ListModelMixin, RetrieveModelMixin, UpdateModelMixin, GenericViewSet):
    queryset = Product.objects.select_related("category")
    serializer_class = ProductSerializer
    lookup_field = "sku"
