"""The server is gone. What was sent away, one key and one command make it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers import Server
from tests.servers.server import client_key
from tests.servers.shop import REQUIREMENTS, Shop, fill

pytestmark = pytest.mark.server
EVERYTHING = "select json_agg(t order by t.id) from {} t"
TABLES = ("sales_sale", "inventory_product", "accounts_user", "django_migrations")


@dataclass(frozen=True)
class Lost:
    """A shop whose server was destroyed, and what was on it."""

    shop: Shop
    """Its folder is the operator's; the server it names is a fresh one."""
    vault: Server
    environment: str
    rows: dict[str, str]
    release: str


def known_to(vault: Server, server: Server, origin: Path) -> None:
    """The way from a server to the vault and to the repository, which a person prepares."""
    server.put("/root/.ssh/id_ed25519", client_key().read_bytes(), 0o600)
    server.put("/root/.ssh/known_hosts", vault.known_hosts)
    server.run("id -u deploy || useradd --create-home --shell /bin/bash deploy")
    fill(server, origin)


def rows(server: Server) -> dict[str, str]:
    return {
        table: server.run(f'psql -qAt -d pos -c "{EVERYTHING.format(table)}"', user="postgres").stdout
        for table in TABLES
    }


@pytest.fixture(scope="module")
def lost(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    folder = tmp_path_factory.mktemp("operator")
    vault, first = boot("vault"), boot("first", requirements=REQUIREMENTS)
    vault.run("install -d -o deploy /srv/vault")
    known_to(vault, first, origin)
    repository = f"sftp:deploy@{vault.address}:/srv/vault/pos"
    more = f'[backup]\nrepository = "{repository}"\nkey = "{folder}/pos.key"\n'
    shop = Shop(folder, (first,))
    shop.configure(more)
    shop.fab("provision", "--yes", timeout=400)
    shop.fab("deploy", "--ref", "code-only", timeout=400)
    for number in range(5):
        body = json.dumps({"uid": f"sale-{number}", "product": "coffee", "quantity": 1})
        first.run(
            f"curl -fsS -m 20 -H 'Host: pos.test' -H 'Content-Type: application/json' -d '{body}' "
            "http://127.0.0.1/api/sales/"
        )
    first.put("/srv/pos/shared/media/receipts/1.txt", "thank you", owner="app:www-data")
    shop.fab("backup", timeout=300)
    environment = first.run("cat /srv/pos/shared/.env.production").stdout
    kept, release = rows(first), shop.current()
    first.close()
    second = boot("second", requirements=REQUIREMENTS)
    known_to(vault, second, origin)
    shop = Shop(folder, (second,))
    shop.configure(more)
    yield Lost(shop, vault, environment, kept, release)
    for server in (vault, second):
        server.close()


def test_a_wrong_key_or_nothing_sent_away_touches_the_new_server(lost: Lost) -> None:
    key = lost.shop.folder / "pos.key"
    right = key.read_text()
    key.unlink()
    assert "pos.key is not here" in lost.shop.fab("recover", "--yes", check=2).stderr
    key.write_text("wrong")
    assert "is it the right key" in lost.shop.fab("recover", "--yes", check=1, timeout=300).stderr
    assert lost.shop.server.run("ls /srv/pos/releases /etc/systemd/system/pos*", check=False).returncode != 0
    key.write_text(right)


def test_a_lost_server_is_lost_for_good(lost: Lost) -> None:
    """Every row, every file, the environment byte for byte, and the very commit that was live."""
    told = lost.shop.fab("recover", "--yes", timeout=600)
    assert "(RTO)" in told.stderr
    server = lost.shop.server
    assert rows(server) == lost.rows
    assert server.run("cat /srv/pos/shared/.env.production").stdout == lost.environment
    receipt = "/srv/pos/shared/media/receipts/1.txt"
    assert server.run(f"cat {receipt}; stat -c ', %U:%G' {receipt}").stdout.strip() == "thank you, app:www-data"
    assert lost.shop.current().rpartition("-")[2] == lost.release.rpartition("-")[2]
    assert json.loads(lost.shop.get())["ok"] is True
    assert lost.shop.fab("provision", "--check").returncode == 0
    secrets = [line.partition("=")[2] for line in lost.environment.splitlines() if "SECRET_KEY" in line]
    secrets.append((lost.shop.folder / "pos.key").read_text().strip())
    assert all(secret not in told.stdout + told.stderr for secret in secrets)


def test_a_server_that_serves_is_overwritten(lost: Lost) -> None:
    assert "is live here" in lost.shop.fab("recover", "--yes", check=4).stderr


def test_what_was_sent_away_can_be_read_without_the_key(lost: Lost) -> None:
    found = lost.vault.run("grep -rlE 'sale-1|SECRET_KEY|thank you' /srv/vault || true").stdout
    assert found == ""


def test_backups_that_cannot_be_sent_away_look_well(lost: Lost) -> None:
    """The next backup of the rebuilt server goes to the same place; with the place gone, it says so."""
    assert "and sent to" in lost.shop.fab("backup", timeout=300).stderr
    lost.vault.run("mv /srv/vault/pos /srv/vault/gone && chown root /srv/vault")
    try:
        refused = lost.shop.fab("backup", check=1, timeout=300)
        assert "on this server only" in refused.stderr
    finally:
        lost.vault.run("mv /srv/vault/gone /srv/vault/pos && chown deploy /srv/vault")
