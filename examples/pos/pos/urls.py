"""Every address of the application."""

from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from accounts.api import UserViewSet
from inventory.api import CategoryViewSet, ProductViewSet
from pos.health import healthz
from pos.views import index, slow
from reports.api import HeartbeatViewSet, ReportViewSet
from sales.api import SaleViewSet
from settings.api import ShopView
from subscriptions.api import SubscriptionViewSet

api = SimpleRouter()
api.register("users", UserViewSet)
api.register("categories", CategoryViewSet)
api.register("products", ProductViewSet)
api.register("sales", SaleViewSet)
api.register("reports", ReportViewSet)
api.register("heartbeats", HeartbeatViewSet)
api.register("subscriptions", SubscriptionViewSet)

urlpatterns = [
    path("", index),
    path("healthz", healthz),
    path("admin/", admin.site.urls),
    path("api/slow/", slow),
    path("api/settings/", ShopView.as_view()),
    path("api/", include(api.urls)),
]
