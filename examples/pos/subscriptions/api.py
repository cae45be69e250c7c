"""/api/subscriptions/: for signed-in staff only."""

from rest_framework.permissions import IsAdminUser
from rest_framework.serializers import ModelSerializer, SlugRelatedField
from rest_framework.viewsets import ModelViewSet

from subscriptions.models import Plan, Subscription


class SubscriptionSerializer(ModelSerializer):
    plan = SlugRelatedField(slug_field="name", queryset=Plan.objects.all())

    class Meta:
        model = Subscription
        fields = ("id", "customer", "plan", "starts_on", "ends_on")


class SubscriptionViewSet(ModelViewSet):
    queryset = Subscription.objects.select_related("plan")
    serializer_class = SubscriptionSerializer
    permission_classes = [IsAdminUser]
