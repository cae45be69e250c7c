"""/api/settings/: what a till needs to know about the shop."""

from rest_framework.generics import RetrieveAPIView
from rest_framework.serializers import ModelSerializer

from settings.models import Shop


class ShopSerializer(ModelSerializer):
    class Meta:
        model = Shop
        fields = ("name", "currency", "receipt_footer")


class ShopView(RetrieveAPIView):
    serializer_class = ShopSerializer

    def get_object(self) -> Shop:
        return Shop.current()
