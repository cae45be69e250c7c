"""The server is gone, a day of sales with it; but its archive lay on a mount, and has them until the last minute."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers import Server
from tests.servers.shop import REQUIREMENTS, Shop

from .test_recover import known_to, rows, sell, sql

pytestmark = [pytest.mark.server, pytest.mark.nightly]
AWAY = "/mnt/away"
KEY = "/etc/pgbackrest/conf.d/fab-releases-key.conf"
STORED = f"find {AWAY}/archive -type f -printf '%p %s %T@\\n' | sort | sha256sum"


def carried(server: Server) -> bytes:
    """What is on the mount."""
    return base64.b64decode(server.run(f"tar -C {AWAY} -cz . | base64", timeout=100).stdout)


def mount(server: Server, disk: bytes, *, owner: str = "") -> None:
    server.put("/tmp/disk.tar.gz", disk)
    server.run(f"mkdir -p {AWAY} && tar -C {AWAY} -xzf /tmp/disk.tar.gz && rm /tmp/disk.tar.gz", timeout=100)
    if owner:
        server.run(f"chown -R {owner} {AWAY}/archive")


def archived(server: Server) -> None:
    """What is committed until now; a minute later it would be by itself."""
    segment = sql(server, "select pg_walfile_name(pg_switch_wal())").strip()
    deadline = time.monotonic() + 60
    while sql(server, f"select last_archived_wal >= '{segment}' from pg_stat_archiver").strip() != "t":
        assert time.monotonic() < deadline, "not archived"
        time.sleep(0.2)


def test_a_day_is_lost_although_the_archive_is_there(boot: Boot, origin: Path, tmp_path: Path) -> None:
    """Every row after the last dump comes back. Where it cannot be read, that is said before anything is set up."""
    server = boot("first", requirements=REQUIREMENTS)
    shop = Shop(tmp_path, (server,))
    more = f'[backup]\nengine = "pgbackrest"\narchive = "{AWAY}/archive"\nrepository = "{AWAY}/restic"\n'
    shop.configure(more + f'key = "{tmp_path}/pos.key"\n')
    known_to(server, server, origin)
    try:
        shop.fab("provision", "--yes", timeout=600)
        shop.fab("deploy", "--ref", "code-only", timeout=400)
        sell(server, 2, "dumped")
        server.run("systemctl start pos-archive.service", timeout=200)
        shop.fab("backup", timeout=300)
        sell(server, 5, "archived")
        sql(server, "create role monthly login password 'late'")
        archived(server)
        held, disk = rows(server), carried(server)
        sell(server, 1, "never-archived")

        server.reset(server.pristine)
        known_to(server, server, origin)
        mount(server, disk)
        server.run(f"mv {AWAY}/archive {AWAY}/elsewhere")
        assert "there is no archive" in refused(shop)
        server.run(f"mv {AWAY}/elsewhere {AWAY}/archive")
        info = f"{AWAY}/archive/archive/main/archive.info"
        server.run(f"cp -p {info} /root/info && head -c 60 /root/info >{info} && rm {info}.copy")
        assert "cannot be read" in refused(shop)
        server.run(f"rm -rf {AWAY}/archive")
        mount(server, disk, owner="4242:4242")
        untouched = f"ls -d /srv/pos/releases /etc/systemd/system/pos* {KEY} /usr/local/lib/fab-releases"
        assert server.run(untouched, check=False).stdout == ""

        told = shop.fab("recover", "--yes", timeout=900).stderr
        print(told)
        assert "further than the newest dump" in told
        assert "its last archived commit (RPO)" in told
        assert re.search(r"it took .*\(RTO\)", told)
        assert rows(server) == held
        assert "t" in sql(server, "select true from pg_roles where rolname = 'monthly'")
        assert json.loads(shop.get())["ok"] is True
        sell(server, 1, "after")
        archived(server)
        found = json.loads(shop.fab("backups", "--json").stdout)["archive"]
        assert len(found["reaches"]) >= 1, "the history of the lost server is gone"
        assert not found["failed_at"], "the new server is taken for the lost one, whose image it is made from"
        secret = server.run(f"sed -n 's/.*cipher-pass=//p' {KEY}").stdout.strip()
        assert secret
        assert secret not in told
        left = "ls -d /var/lib/fab-releases/lost-archive /var/lib/postgresql/fab-releases/pos-*"
        assert server.run(left, check=False).stdout == ""
        assert shop.fab("provision", "--check").returncode == 0
    finally:
        server.close()


def refused(shop: Shop) -> str:
    told = shop.fab("recover", "--yes", check=4, timeout=300).stderr
    assert "--without-archive" in told
    return told
