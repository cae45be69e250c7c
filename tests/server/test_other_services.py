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
UVICORN = """\
[services.web]
kind = "web"
command = "uvicorn --timeout-graceful-shutdown 30 pos.asgi:application"
notify = false
settle = "2s"
"""
ASKING = """\
slow() { curl -s -o /dev/null -m 30 -w '%{http_code}\\n' -H 'Host: pos.test' 'http://127.0.0.1/api/slow/?seconds=1'; }
asking() { until [ -e /root/enough ]; do slow; done; }
(asking & asking & asking & wait)"""
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


def test_uvicorn_alone_serves_a_release_and_finishes_what_it_has_in_hand(fresh: Shop) -> None:
    serve(fresh, UVICORN, '[python]\nextra = ["uvicorn"]\n')
    fresh.fab("deploy", "--ref", "code-only", timeout=400)
    first = fresh.current()
    assert first in fresh.get()
    named = fresh.server.run(f"curl -sI --unix-socket /run/pos/{first}.sock http://pos.test/healthz").stdout
    assert f"x-release: {first}" in named.lower()
    fresh.server.run(f"{ASKING} >/root/answers 2>&1 </dev/null &")
    fresh.fab("rollback")
    await_end(fresh, f"pos-web@{first}")
    answers = fresh.server.run("touch /root/enough; sleep 3; cat /root/answers").stdout.split()
    assert len(answers) > 3
    assert set(answers) == {"200"}
    journal = fresh.server.run(f"journalctl -q --no-pager -u pos-web@{first}").stdout
    assert "Finished server process" in journal
    assert "Failed with result" not in journal


def test_uvicorn_that_cannot_load_the_application_is_refused_before_the_switch(shop: Shop) -> None:
    serve(shop, UVICORN.replace("pos.asgi", "pos.nothing"), '[python]\nextra = ["uvicorn"]\n')
    before = shop.current()
    refused = shop.fab("deploy", "--ref", "code-only", "--force", check=1, timeout=400)
    assert "pos.nothing" in refused.stderr
    assert shop.current() == before
    assert before in shop.get()


def await_end(shop: Shop, unit: str) -> None:
    shop.server.run(f"timeout 60 sh -c 'while systemctl is-active -q {unit}; do sleep 0.2; done'")


def test_any_command_is_a_worker(shop: Shop) -> None:
    serve(shop, ASGI.replace(ASGI.splitlines()[2], "workers = 1") + STANDING)
    shop.fab("deploy", "--ref", "code-only", "--force", timeout=400)
    first = shop.current()
    assert shop.server.run(f"systemctl is-active pos-clock@{first}").stdout.strip() == "active"
    shop.fab("rollback")
    assert shop.server.run(f"systemctl is-active pos-clock@{first}", check=False).stdout.strip() != "active"


def test_a_command_that_does_not_go_on_is_refused_before_the_switch(shop: Shop) -> None:
    serve(shop, ASGI.replace(ASGI.splitlines()[2], "workers = 1") + STANDING.replace("time.sleep(100000)", "1/0"))
    before = shop.current()
    refused = shop.fab("deploy", "--ref", "code-only", "--force", check=1, timeout=400)
    assert "clock" in refused.stderr
    assert "ZeroDivisionError" in refused.stderr
    assert shop.current() == before
    assert before in shop.get()
