"""Where backups are sent away to says nothing at all: that is known soon, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config.load import load, stage
from tasks.model.shell import Secret
from tasks.remote.machine import backups
from tasks.remote.machine.stores import Offsite
from tests.conftest import Boot
from tests.servers.shop import Shop, install_parts

pytestmark = [pytest.mark.server, pytest.mark.nightly]
SILENT = "s3:https://127.0.0.9/shop/pos"
DROP = """
add table inet silent
add chain inet silent input { type filter hook input priority 0; }
add rule inet silent input ip daddr 127.0.0.9 drop
"""
SECRET = "only-for-tests-0123456789"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS000000", "AWS_SECRET_ACCESS_KEY": SECRET}


def test_a_storage_that_says_nothing_holds_everybody_up(boot: Boot, tmp_path: Path) -> None:
    """restic alone takes 90 s to give up, and was asked twice."""
    server = boot("silent")
    server.run("nft -f -", input=DROP)
    shop = Shop(tmp_path, (server,))
    shop.configure(f'[backup]\nrepository = "{SILENT}"\nkey = "{tmp_path}/pos.key"\nvariables = {list(KEYS)}\n')
    (tmp_path / "pos.key").write_text("a key\n")
    try:
        refused = shop.fab("recover", "--yes", check=1, environment=KEYS, timeout=300)
        assert f"{SILENT} did not answer in 60 s" in refused.stderr
        assert SECRET not in refused.stdout + refused.stderr
        here, given = stage(load(tmp_path / "releases.toml")), "".join(f"{name}={KEYS[name]}\n" for name in KEYS)
        install_parts(server, backups.parts(here, here.primary, Offsite(Secret("a key\n"), Secret(given))))
        sent = server.run("/usr/local/lib/fab-releases/pos-offsite", check=False, timeout=170)
        assert sent.returncode == 1
        assert sent.stderr == f"{SILENT} did not answer in 60 s: is it there, and may this server reach it?\n"
    finally:
        server.close()
