from django.contrib import admin

from subscriptions.models import Plan, Subscription

admin.site.register(Plan)


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    list_display = ("customer", "plan", "starts_on", "ends_on")
    list_filter = ("plan",)
