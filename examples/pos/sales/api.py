"""/api/sales/: a till sends a sale until it hears an answer; the uid makes sending it again harmless."""

from rest_framework.mixins import CreateModelMixin, ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer, SlugRelatedField
from rest_framework.viewsets import GenericViewSet

from inventory.models import Product
from sales.models import Sale


class SaleSerializer(ModelSerializer):
    product = SlugRelatedField(slug_field="sku", queryset=Product.objects.all())

    class Meta:
        model = Sale
        fields = ("uid", "product", "quantity", "total", "note", "sold_at")
        read_only_fields = ("total", "sold_at")
        extra_kwargs = {"uid": {"validators": []}}


class SaleViewSet(CreateModelMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet):
    queryset = Sale.objects.select_related("product")
    serializer_class = SaleSerializer
    lookup_field = "uid"
    lookup_value_regex = "[^/]+"

    def create(self, request: Request) -> Response:
        """201 for a new sale, 200 and the stored one when the uid is known."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        sale = dict(serializer.validated_data)
        sale["total"] = sale["product"].price * sale.get("quantity", 1)
        sale["cashier"] = request.user if request.user.is_authenticated else None
        stored, created = Sale.objects.get_or_create(uid=sale.pop("uid"), defaults=sale)
        return Response(self.get_serializer(stored).data, status=201 if created else 200)
