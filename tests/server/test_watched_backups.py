"""Backups that nobody is there to see: a run that fails is heard of, and what was never restored is not called good."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.config.load import load, stage
from tasks.model.shell import Secret
from tasks.remote.machine import backups
from tasks.remote.machine.stores import Offsite
from tests.conftest import Boot
from tests.servers import Server, faults
from tests.servers.shop import Shop, fill, install_parts

from .conftest import await_page, put_back

pytestmark = pytest.mark.server

PORT = 9911
VARIABLE = "CHAT_ROOM"
PATH = "/services/T0/do-not-tell"
NOTIFIED = f'[notify]\nwebhook_variable = "{VARIABLE}"\n'
SECRETS = ("canary", "pos:pos@", "do-not-tell")
"""Parts of SECRET_KEY, of DATABASE_URL and of the webhook's own address."""
ROOM = f"""
import http.server
class Room(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/told", "ab") as told:
            told.write(self.path.encode() + b"\\t" + body + b"\\n")
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", {PORT}), Room).serve_forever()
"""
SILENT = f"""
import socket, time
door = socket.create_server(("127.0.0.1", {PORT}))
held = []
while True:
    link, _ = door.accept()
    held.append(link)
    link.sendall(b"HTTP/1.1 200 OK\\r\\n")
    for _ in range(120):
        time.sleep(1)
        link.sendall(b"X-Slow: 1\\r\\n")
"""


@contextmanager
def listening(server: Server, program: str) -> Iterator[None]:
    """Somebody at the webhook's address, on the server itself."""
    server.put("/root/room.py", program)
    server.run(
        "rm -f /run/told; systemd-run --quiet --unit room python3 /root/room.py && "
        f"until ss -Htln | grep -q :{PORT}; do sleep 0.1; done"
    )
    try:
        yield
    finally:
        server.run("systemctl stop room; rm -f /root/room.py")


def told(server: Server) -> list[dict[str, str]]:
    """What came in there, by the address alone that only the environment file knows."""
    lines = server.run("cat /run/told 2>/dev/null || true").stdout.splitlines()
    assert all(line.startswith(PATH) for line in lines)
    return [json.loads(line.partition("\t")[2]) for line in lines]


def await_that(fact: Callable[[], object], said: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def await_quiet(server: Server) -> None:
    """Until whoever tells of failures has done so."""
    quiet = "systemctl list-units --no-legend --state=activating 'pos-failed@*'"
    await_that(lambda: not server.run(quiet).stdout.strip(), "pos-failed@ never ends", 90)


def install(shop: Shop) -> None:
    """The files of the timers, as provisioning would."""
    here = stage(load(shop.folder / "releases.toml"))
    install_parts(shop.server, backups.parts(here, here.primary, Offsite(Secret("a key"))))
    shop.server.run("systemctl enable -q --now pos-backup.timer pos-drill.timer")


@pytest.fixture(scope="module")
def watched(shop: Shop) -> Shop:
    """`base` is live, the timers are there, and the stage has a webhook."""
    shop.configure(NOTIFIED)
    install(shop)
    shop.put_environment(f"{VARIABLE}=http://127.0.0.1:{PORT}{PATH}\n")
    shop.server.run("usermod -aG systemd-journal deploy")
    shop.server.snapshot()
    return shop


@pytest.fixture
def fresh(watched: Shop) -> Shop:
    put_back(watched)
    watched.configure(NOTIFIED)
    return watched


def status(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shop.fab("status", "--json").stdout)["backups"]
    return found


def unwell(shop: Shop) -> dict[str, str]:
    return {one["what"]: one["said"] for one in status(shop)["aspects"] if not one["is_well"]}


def history(shop: Shop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shop.fab("history", "--json").stdout)["hosts"]["app1"]
    return found


def test_backups_fail_for_weeks_and_nobody_hears_of_it(fresh: Shop) -> None:
    """A drill by systemd is proof and history; a failed run is in the journal, one message, status and check."""
    server = fresh.server
    server.run("systemctl start pos-backup.service")
    server.run("systemctl start pos-offsite.service", timeout=120)
    assert "not proven" in fresh.fab("status").stdout
    server.run("systemctl start pos-drill.service")
    drilled = history(fresh)[0]
    assert (drilled["event"], drilled["by"]) == ("drill", "timer")
    assert "(RTO)" in drilled["note"]
    assert "(RPO)" in drilled["note"]
    assert status(fresh)["proven_at"]
    assert unwell(fresh) == {"off-site": "backups are on this server only"}
    with listening(server, ROOM):
        with faults.stopped(server, "postgresql@15-main"):
            failed = server.run("systemctl start pos-backup.service", check=False)
            assert failed.returncode != 0
            await_that(lambda: told(server), "nobody was told")
            await_quiet(server)
            found = fresh.fab("check", check=4)
        (message,) = told(server)
        assert (message["verb"], message["stage"], message["result"]) == ("backup", "production", "failed")
        assert "OperationalError" in message["message"]
        recorded = history(fresh)[0]
        assert (recorded["event"], recorded["more"]["unit"]) == ("failed", "backup")
        shown = fresh.fab("status").stdout
        assert re.search("the timer's last run failed, [0-9]+ (s|min) ago: .*Connection refused", shown)
        assert re.search(
            "look backup-timer: the timer's last run failed, [0-9]+ (s|min) ago: .*Connection refused", found.stdout
        )
        assert "pos-backup.service has failed" not in found.stdout
        logs = fresh.fab("logs", "--service", "backup").stdout
        units = server.run("journalctl --no-pager -o cat -u 'pos-*'").stdout
        everything = "\n".join([str(message), str(recorded), shown, found.stdout, logs, units])
        assert [secret for secret in SECRETS if secret in everything] == []
        server.run("systemctl start pos-backup.service")
        assert set(unwell(fresh)) == {"off-site"}
        assert len(told(server)) == 1


@pytest.mark.nightly
def test_a_run_that_is_killed_is_forgotten(fresh: Shop) -> None:
    """By kill -9, and known after a reboot, when systemd has forgotten it."""
    server = fresh.server
    with listening(server, ROOM):
        server.put(
            "/etc/systemd/system/pos-drill.service.d/hangs.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/sleep 600\n",
        )
        server.run(
            "systemctl daemon-reload && systemctl start --no-block pos-drill.service && sleep 1 && "
            "systemctl kill --signal=KILL pos-drill.service"
        )
        await_that(lambda: told(server), "nobody was told")
        await_quiet(server)
        assert told(server)[0]["message"] == "it ended with signal"
    server.reboot()
    await_page(fresh)
    assert "the last drill failed" in unwell(fresh)["drill"]


@pytest.mark.nightly
def test_a_full_disk_keeps_a_failure_from_being_known(fresh: Shop) -> None:
    """Nor can the journal be written: the message still goes, and systemd's own word is in status and check."""
    server = fresh.server
    fresh.fab("backup")
    with listening(server, ROOM), faults.full_disk(server, "/srv/pos"):
        server.run("chown root: /srv/pos/.releases/journal.jsonl && chmod 644 /srv/pos/.releases/journal.jsonl")
        assert server.run("systemctl start pos-backup.service", check=False).returncode != 0
        await_that(lambda: told(server), "nobody was told")
        await_quiet(server)
        assert "the timer's last run failed" in fresh.fab("status").stdout
        assert "look backup-timer: the timer's last run failed" in fresh.fab("check", check=4).stdout
        assert "failed" not in {one["event"] for one in history(fresh)}


@pytest.mark.nightly
def test_a_chat_room_that_hangs_holds_up_what_tells_of_failures(fresh: Shop) -> None:
    """It accepts, and sends a header a second: recorded at once, given up soon."""
    server = fresh.server
    with listening(server, SILENT):
        server.run("systemctl start pos-drill.service", check=False)  # there is no backup
        await_that(lambda: history(fresh)[0]["event"] == "failed", "it was not recorded", 15)
        assert "There is no backup" in history(fresh)[0]["note"]
        await_that(
            lambda: "was not told" in server.run("journalctl -o cat -u 'pos-failed@*'").stdout, "it never gives up", 60
        )
        await_quiet(server)


@pytest.mark.nightly
def test_a_deploy_fails_because_a_backup_runs(fresh: Shop) -> None:
    """One that is held up: the deploy waits for it, says so, and then migrates."""
    server = fresh.server
    applied = "psql -qAt -d pos -c 'select count(*) from django_migrations'"
    before = int(server.run(applied, user="postgres").stdout)
    words = "(echo 'begin; lock table django_admin_log;'; sleep 55) | psql -qd pos"
    server.run(f'systemd-run -q --uid=postgres --unit=holder bash -c "{words}"')
    asked = "select count(*) from pg_stat_activity where application_name = 'fab-releases backup'"
    server.run("systemctl start --no-block pos-backup.service")
    await_that(lambda: server.run(f'psql -qAtc "{asked}"', user="postgres").stdout.strip() == "1", "no backup runs")
    told = fresh.fab("deploy", "--ref", "additive-migration", timeout=300).stderr
    assert re.search("a backup runs since 20[0-9-]+ [0-9:]+[+]00: waiting for its end, 600 s at most", told)
    assert "canary" not in told
    server.run("systemctl start pos-offsite.service", timeout=120)
    assert set(unwell(fresh)) == {"drill", "off-site"}, "the backup did not come to its end"
    assert int(server.run(applied, user="postgres").stdout) == before + 1


@pytest.mark.nightly
def test_a_backup_that_cannot_be_restored_keeps_its_proof(fresh: Shop) -> None:
    server = fresh.server
    fresh.fab("backup")
    fresh.fab("drill")
    by_hand = history(fresh)[0]
    assert (by_hand["event"], by_hand["by"]) != ("drill", "timer")
    assert by_hand["more"]["seconds"] > 0
    assert status(fresh)["proven_at"]
    server.run("truncate -s -100 /srv/pos/backups/database/*.dump")
    assert server.run("systemctl start pos-drill.service", check=False).returncode != 0
    await_quiet(server)
    assert status(fresh)["proven_at"] is None
    assert "size or SHA-256 differ" in unwell(fresh)["drill"]


@pytest.mark.nightly
def test_backups_stay_on_their_server_for_weeks_and_nobody_hears_of_it(fresh: Shop) -> None:
    """The timer's run is well, what it starts then is not: its place cannot be written."""
    server = fresh.server
    fresh.configure(f'{NOTIFIED}[backup]\nrepository = "/proc/nowhere"\n')
    install(fresh)
    with listening(server, ROOM):
        server.run("systemctl start pos-backup.service")
        await_that(lambda: told(server), "nobody was told")
        await_quiet(server)
        assert [one["verb"] for one in told(server)] == ["offsite"]
        assert "a key" not in str(told(server))
    assert "sending them away failed, " in unwell(fresh)["off-site"]
    assert "look off-site: sending them away failed" in fresh.fab("check", check=None).stdout
    server.run(
        "install -d -m 755 /var/lib/fab-releases && date -ud '-2 days' +%FT%TZ >/var/lib/fab-releases/pos-offsite-at"
    )
    server.run(r"""sed -i '/"event": "failed"/d' /srv/pos/.releases/journal.jsonl; systemctl reset-failed""")
    assert "older than the newest backup" in unwell(fresh)["off-site"]


@pytest.mark.nightly
def test_the_database_has_a_host_of_its_own_which_nobody_watches(fresh: Shop, boot: Boot, tmp_path: Path) -> None:
    """What it sends away fails: one message, `fab check`, `fab status`, also after a reboot, until it is well again."""
    data = boot("data")
    data.reset(data.pristine)
    apart = Shop(tmp_path, (fresh.server, data))
    apart.configure(
        f'{NOTIFIED}[backup]\nrepository = "/var/vault"\n', roles=('["web", "worker", "beat", "db"]', '["postgresql"]')
    )
    here = stage(load(apart.folder / "releases.toml"))
    room = Secret(f"http://127.0.0.1:{PORT}{PATH}")
    made = backups.parts(here, here.database_host, Offsite(Secret("a key"), Secret("")), room)
    install_parts(data, made)
    data.run("usermod -aG systemd-journal deploy; systemctl enable -q --now pos-offsite.timer")
    assert role(apart)["state"] == "roles and configuration were not sent away yet"
    data.put("/usr/local/bin/sleep", "#!/bin/sh\n", mode=0o755)  # between 60 tries
    with listening(data, ROOM):
        assert data.run("systemctl start pos-offsite.service", check=False).returncode != 0
        await_that(lambda: told(data), "nobody was told")
        await_quiet(data)
        (message,) = told(data)
    assert (message["verb"], message["hint"]) == ("offsite", "on app2: journalctl -u pos-offsite")
    data.reboot()
    assert "sending roles and configuration away failed, " in role(apart)["state"]
    assert not role(apart)["is_well"]
    found = apart.fab("-H", "app2", "check", check=None).stdout
    assert re.search(r"look off-site: sending roles and configuration away failed, \d+ \w+ ago: it ended with", found)
    everything = str(message) + found + data.run("journalctl --no-pager -o cat -u 'pos-*'").stdout
    assert [secret for secret in (*SECRETS, "a key") if secret in everything] == []
    data.put("/usr/local/bin/restic", "#!/bin/sh\n", mode=0o755)
    data.run("systemctl start pos-offsite.service")
    assert re.search("were sent away [0-9]+ (s|min) ago", role(apart)["state"])
    assert role(apart)["is_well"]


def role(shop: Shop) -> dict[str, Any]:
    roles = json.loads(shop.fab("status", "--json", check=None).stdout)["roles"]
    found: dict[str, Any] = next(one for one in roles if one["role"] == "off-site")
    return found


@pytest.mark.nightly
def test_a_missed_run_waits_for_tomorrow(boot: Boot, origin: Path, tmp_path: Path) -> None:
    """Provisioned for real: the timers have their times, and a server that was off catches up after its boot."""
    server = boot("bare", ssh_port=7822, bare=True)
    server.reset(server.pristine)
    shop = Shop(tmp_path, (server,))
    shop.configure()
    shop.fab("provision", "--yes", timeout=600)
    fill(server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)
    times = server.run("systemctl cat pos-backup.timer pos-drill.timer | grep OnCalendar").stdout.splitlines()
    assert times == ["OnCalendar=*-*-* 02:30:00", "OnCalendar=Sun *-*-* 04:30:00"]
    assert server.run("systemctl is-active pos-backup.timer pos-drill.timer").stdout.split() == ["active", "active"]
    assert "there is no backup" in shop.fab("status").stdout
    for name in ("backup", "drill"):
        server.run(
            f"mkdir -p /etc/systemd/system/pos-{name}.timer.d && "
            f"printf '[Timer]\\nRandomizedDelaySec=0\\n' >/etc/systemd/system/pos-{name}.timer.d/soon.conf && "
            f"touch -d '9 days ago' /var/lib/systemd/timers/stamp-pos-{name}.timer"
        )
    server.reboot()
    await_page(shop)
    await_that(lambda: [one for one in history(shop) if one["event"] == "drill"], "no drill after the boot", 120)
    server.run("systemctl start pos-offsite.service", timeout=120)
    assert set(unwell(shop)) == {"off-site"}, "the backup first, then the drill of it"
    shop.configure('[backup]\ndrill = "never"\n')
    shop.fab("provision", "--yes", timeout=300)
    assert server.run("systemctl list-unit-files --no-legend 'pos-drill.timer' || true").stdout == ""
    assert "no timer proves" not in shop.fab("check", check=None).stdout
    assert shop.fab("provision", "--check").returncode == 0
