"""Services that are neither WSGI nor Celery: ASGI, and any command that goes on."""

from __future__ import annotations

import re
import shlex

import pytest

from tasks.remote.library import library
from tests.servers.shop import Shop

pytestmark = pytest.mark.server
ID = "20261122-101530-9f3c2ab"

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


# -- other applications on the server

APPLICATIONS = ("shop", "shop-admin", "shop-admin-web", "shop--staging", "sho", "shop-web", "a", "default", "zoo")
NAMES = ("web", "admin", "admin-web", "staging-web", "a", "beat-web")
OTHER_UNIT = """[Service]
ExecStart=/bin/sleep 1000
WorkingDirectory=/srv/others/{application}/releases/%i
"""


def unit_names() -> dict[str, str]:
    """Unit -> application whose it is; a name that two would have is the first one's."""
    named: dict[str, str] = {}
    for application in APPLICATIONS:
        for service in NAMES:
            named.setdefault(f"{application}-{service}", application)
    return named


def test_only_units_of_this_application_are_its_own_whatever_others_are_called(shop: Shop) -> None:
    """Real units of nine applications with six services each, whose names are prefixes of one another."""
    named = unit_names()
    script = ["set -e"]
    for name, application in named.items():
        text = OTHER_UNIT.format(application=application)
        script.append(f"printf %s {shlex.quote(text)} >/run/systemd/system/{name}@.service")
        script.append(f"mkdir -p /srv/others/{application}/releases/{ID}")
    units = " ".join(f"{name}@{ID}.service" for name in named)
    shop.server.run("\n".join([*script, f"systemctl daemon-reload; systemctl start {units}"]))
    for application in APPLICATIONS:
        asked = f"{library()}\nAPPLICATION={application} DEPLOY_TO=/srv/others/{application} RUN=/run/{application}\n"
        asked += f"SERVICES=()\nsystemd_services {ID}; echo; systemd_ids | sort -u; echo; systemd_units | cut -f 1\n"
        services, ids, seen = shop.server.run("bash -s", input=asked.encode()).stdout.split("\n\n")
        own = {name.removeprefix(f"{application}-") for name, whose in named.items() if whose == application}
        assert (set(services.split()), set(seen.split())) == (own, own), application
        assert ids.split() == ([ID] if own else [])
    shop.server.run(f"systemctl stop {units}")


def test_an_application_whose_name_begins_like_ours_is_neither_stopped_nor_listed(shop: Shop) -> None:
    unit, other = f"pos-admin-web@{ID}.service", OTHER_UNIT.format(application="pos-admin")
    shop.server.put("/etc/systemd/system/pos-admin-web@.service", other)
    shop.server.run(f"mkdir -p /srv/others/pos-admin/releases/{ID}; systemctl daemon-reload; systemctl start {unit}")
    pid = shop.server.run(f"systemctl show -p MainPID --value {unit}").stdout
    shop.configure()
    shop.fab("deploy", "--ref", "base", "--force", timeout=400)
    shop.fab("repair")
    assert "admin" not in shop.fab("status").stdout
    assert shop.server.run(f"systemctl show -p MainPID --value {unit}").stdout == pid


def test_a_unit_of_another_application_is_not_overwritten(shop: Shop) -> None:
    own = "[Service]\nExecStart=python3 /srv/others/pos/releases/%i/.release/launch.py run web\n"
    path = "/etc/systemd/system/pos-web@.service"
    before = shop.server.run(f"cat {path}").stdout
    shop.server.run("mkdir -p /srv/others/pos")
    shop.server.put(path, own)
    refused = shop.fab("provision", "--yes", check=None, timeout=300)
    assert refused.returncode != 0
    assert f"{path} belongs to the application in /srv/others/pos" in refused.stderr
    assert shop.server.run(f"cat {path}").stdout == own
    shop.server.put(path, before)


def test_a_command_that_does_not_go_on_is_refused_before_the_switch(shop: Shop) -> None:
    serve(shop, ASGI.replace(ASGI.splitlines()[2], "workers = 1") + STANDING.replace("time.sleep(100000)", "1/0"))
    before = shop.current()
    refused = shop.fab("deploy", "--ref", "code-only", "--force", check=1, timeout=400)
    assert "clock" in refused.stderr
    assert "ZeroDivisionError" in refused.stderr
    assert shop.current() == before
    assert before in shop.get()
