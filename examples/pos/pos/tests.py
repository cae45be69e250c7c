"""What a shop would notice."""

import tempfile

from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import TestCase, override_settings
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

from reports.models import Heartbeat
from reports.tasks import tick
from sales.models import Sale

# Hashed names would want collectstatic before the tests.
PLAIN_STATIC = settings.STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
NO_REDIS = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"},
}


class HealthTest(TestCase):
    @override_settings(RELEASE_ID="20261122-101530-9f3c2ab")
    def test_says_which_release_is_well(self):
        answer = self.client.get("/healthz")
        self.assertEqual(answer.status_code, 200)
        expected = {"ok": True, "release": "20261122-101530-9f3c2ab", "database": "ok", "cache": "ok"}
        self.assertEqual(answer.json(), expected)

    @override_settings(CACHES=NO_REDIS)
    def test_is_unwell_without_its_cache(self):
        answer = self.client.get("/healthz")
        self.assertEqual(answer.status_code, 503)
        self.assertEqual((answer.json()["cache"], answer.json()["database"]), ("ConnectionError", "ok"))

    @override_settings(SECURE_SSL_REDIRECT=True)
    def test_answers_a_probe_that_speaks_plain_http(self):
        self.assertEqual(self.client.get("/healthz").status_code, 200)
        self.assertEqual(self.client.get("/").status_code, 301)


class PageTest(TestCase):
    @override_settings(STORAGES=PLAIN_STATIC, RELEASE_ID="tuesday")
    def test_shows_the_shop(self):
        self.assertContains(self.client.get("/"), "<code>tuesday</code>")

    def test_nobody_can_slow_down_production(self):
        self.assertEqual(self.client.get("/api/slow/").status_code, 404)

    @override_settings(POS_SLOW=True)
    def test_a_wait_is_never_longer_than_asked(self):
        self.assertEqual(self.client.get("/api/slow/?seconds=0").json()["seconds"], 0)
        self.assertEqual(self.client.get("/api/slow/?seconds=soon").status_code, 400)


class SaleTest(TestCase):
    sale = {"uid": "till-1-000001", "product": "coffee", "quantity": 2}

    def post(self, **headers):
        return self.client.post("/api/sales/", self.sale, "application/json", headers=headers)

    def test_a_sale_sent_twice_is_stored_once(self):
        first, again = self.post(), self.post()
        self.assertEqual((first.status_code, again.status_code), (201, 200))
        self.assertEqual(first.json(), again.json())
        self.assertEqual(first.json()["total"], "5.60")
        self.assertEqual(Sale.objects.count(), 1)
        self.assertEqual(self.client.get("/api/sales/till-1-000001/").json()["quantity"], 2)

    @override_settings(POS_API_TOKEN="till-token")
    def test_a_stranger_cannot_sell(self):
        self.assertEqual(self.post().status_code, 403)
        self.assertEqual(self.post(authorization="Bearer till-token").status_code, 201)

    def test_staff_pages_want_staff(self):
        self.assertEqual(self.client.get("/api/users/").status_code, 403)
        self.assertEqual(self.client.get("/admin/").status_code, 302)


class WorkerTest(TestCase):
    @override_settings(CELERY_TASK_ALWAYS_EAGER=True)
    def test_a_report_counts_the_sales_of_the_day(self):
        self.client.post("/api/sales/", SaleTest.sale, "application/json")
        with self.captureOnCommitCallbacks(execute=True):
            asked = self.client.post("/api/reports/", {}, "application/json").json()
        report = self.client.get(f"/api/reports/{asked['id']}/").json()
        self.assertEqual((report["sales"], report["total"], report["runs"]), (1, "5.60", 1))

    def test_a_tick_leaves_a_heartbeat(self):
        tick()
        self.assertEqual(Heartbeat.objects.get().release, settings.RELEASE_ID)


class ProductTest(TestCase):
    def upload(self, name: str):
        form = encode_multipart(BOUNDARY, {"photo": SimpleUploadedFile(name, b"photo")})
        return self.client.patch("/api/products/cake/", form, MULTIPART_CONTENT)

    def test_a_product_gets_its_photo_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as media, override_settings(MEDIA_ROOT=media):
            self.assertIn("/media/products/cake.png", self.upload("cake.png").json()["photo"])
            self.assertEqual(self.upload("cake.html").status_code, 400)


class MigrationTest(TestCase):
    def test_no_migration_is_missing(self):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
