from django.contrib import admin

from reports.models import Heartbeat, Report

admin.site.register(Heartbeat)


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin):
    list_display = ("day", "sales", "total", "release", "asked_at", "built_at")
