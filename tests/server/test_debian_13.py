"""The other Debian: from a bare server to a live release, a second one, a backup and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers.shop import Shop, fill

from .conftest import await_page
from .looking import sell

pytestmark = [pytest.mark.server, pytest.mark.nightly]


def test_debian_13_is_not_what_debian_12_is(boot: Boot, origin: Path, tmp_path: Path) -> None:
    """PostgreSQL 17, Redis 8, Python 3.13, systemd 257, OpenSSH 10: with all that may be switched on as well."""
    server = boot("trixie", bare="trixie")
    shop = Shop(tmp_path, (server,))
    shop.configure("[provision]\nssh = true\nupgrades = true\nfail2ban = true\n")
    shop.fab("provision", "--yes", timeout=600)
    assert server.run("cat /etc/debian_version").stdout.startswith("13.")
    assert shop.fab("provision", "--check").stdout.strip() == "every host is as releases.toml says"
    fill(server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)
    first = shop.current()
    assert sell(shop, "till-1") == 201
    shop.fab("deploy", "--ref", "code-only", timeout=400)
    server.run("systemctl start pos-backup.service && ls /srv/pos/backups/database/*.dump")
    shop.fab("rollback", "--yes")
    server.reboot()
    await_page(shop)
    served = json.loads(shop.get())
    assert (served["release"], served["database"], served["cache"]) == (first, "ok", "ok")
    server.close()
