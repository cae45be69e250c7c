"""/api/reports/: ask for a report, come back for it. /api/heartbeats/: are the workers alive, and of which release?"""

from functools import partial

from django.conf import settings
from django.db import transaction
from rest_framework.mixins import CreateModelMixin
from rest_framework.serializers import FloatField, ModelSerializer
from rest_framework.viewsets import ReadOnlyModelViewSet

from reports.models import Heartbeat, Report
from reports.tasks import build


class ReportSerializer(ModelSerializer):
    # A report that takes its time, for load tests: heard only where POS_SLOW=1.
    seconds = FloatField(write_only=True, default=0, min_value=0, max_value=60)

    class Meta:
        model = Report
        fields = ("id", "day", "seconds", "sales", "total", "runs", "release", "asked_at", "built_at")


class HeartbeatSerializer(ModelSerializer):
    class Meta:
        model = Heartbeat
        fields = ("id", "release", "at")


class ReportViewSet(CreateModelMixin, ReadOnlyModelViewSet):
    queryset = Report.objects.all()
    serializer_class = ReportSerializer

    def perform_create(self, serializer: ReportSerializer) -> None:
        seconds = serializer.validated_data.pop("seconds")
        report = serializer.save()
        transaction.on_commit(partial(build.delay, report.pk, seconds if settings.POS_SLOW else 0))


class HeartbeatViewSet(ReadOnlyModelViewSet):
    queryset = Heartbeat.objects.all()
    serializer_class = HeartbeatSerializer
