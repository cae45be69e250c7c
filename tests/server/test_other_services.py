"""Services that are neither WSGI nor Celery: ASGI, and any command that goes on."""

from __future__ import annotations

import re

import pytest

from tests.servers.shop import Shop

pytestmark = pytest.mark.server

ASGI = """\
[services.web]
kind = "web"
command = "gunicorn --worker-class uvicorn_worker.UvicornWorker --workers 1 pos.asgi:application"
"""
STANDING = """
[services.clock]
kind = "worker"
command = "python manage.py shell -c 'import time; time.sleep(100000)'"
notify = false
settle = "1s"
"""


def serve(shop: Shop, services: str, more: str = "") -> None:
    """The configuration with other services than web, worker and beat of the example."""
    shop.configure(more)
    path = shop.folder / "releases.toml"
    text = re.sub(r"\[services\.web\]\n(.+\n)+", services, path.read_text())
    path.write_text(text)
    shop.install()


def test_an_asgi_application_is_switched_like_any_other(fresh: Shop) -> None:
    serve(fresh, ASGI, '[python]\nextra = ["uvicorn-worker"]\n')
    fresh.fab("deploy", "--ref", "code-only", timeout=400)
    assert fresh.current() in fresh.get()
    command = fresh.server.run(f"systemctl status --no-pager pos-web@{fresh.current()}").stdout
    assert "UvicornWorker" in command


def test_any_command_is_a_worker(fresh: Shop) -> None:
    serve(fresh, ASGI.replace(ASGI.splitlines()[2], "workers = 1") + STANDING)
    fresh.fab("deploy", "--ref", "code-only", timeout=400)
    first = fresh.current()
    assert fresh.server.run(f"systemctl is-active pos-clock@{first}").stdout.strip() == "active"
    fresh.fab("rollback")
    assert fresh.server.run(f"systemctl is-active pos-clock@{first}", check=False).stdout.strip() != "active"


def test_a_command_that_does_not_go_on_is_refused_before_the_switch(fresh: Shop) -> None:
    serve(fresh, ASGI.replace(ASGI.splitlines()[2], "workers = 1") + STANDING.replace("time.sleep(100000)", "1/0"))
    before = fresh.current()
    refused = fresh.fab("deploy", "--ref", "code-only", check=1, timeout=400)
    assert "clock" in refused.stderr
    assert "ZeroDivisionError" in refused.stderr
    assert fresh.current() == before
    assert before in fresh.get()
