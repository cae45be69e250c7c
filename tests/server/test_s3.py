"""What was sent away to S3 comes back, and whoever cannot reach it hears why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.process_list import process_list
from tests.servers import s3
from tests.servers.s3 import Storage
from tests.servers.server import Server
from tests.servers.shop import REQUIREMENTS, Shop, fill

pytestmark = [pytest.mark.server, pytest.mark.nightly]
BACKUP = """
[backup]
repository = "s3:{url}/{bucket}/pos"
key = "{folder}/pos.key"
variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
"""


@dataclass
class Away:
    shop: Shop
    storage: Storage

    def fab(self, *words: str, check: int = 0, **variables: str) -> str:
        """All that was said, by whoever has the right variables, or `variables` instead."""
        done = self.shop.fab(*words, check=check, timeout=600, environment=self.storage.variables | variables)
        return done.stdout + done.stderr

    def configure(self, bucket: str = "shop", url: str = "") -> None:
        folder = self.shop.folder
        self.shop.configure(BACKUP.format(url=url or self.storage.url, bucket=bucket, folder=folder))


def bare(boot: Boot, name: str, origin: Path, storage: Storage) -> Server:
    server = boot(name, requirements=REQUIREMENTS)
    server.run("id -u deploy || useradd --create-home --shell /bin/bash deploy")
    fill(server, origin)
    storage.trusted_by(server)
    return server


@pytest.fixture(scope="module")
def away(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    storage = s3.begin(boot("storage"), "shop")
    first = bare(boot, "s3-first", origin, storage)
    found = Away(Shop(tmp_path_factory.mktemp("s3"), (first,)), storage)
    found.configure()
    found.fab("provision", "--yes")
    found.shop.fab("deploy", "--ref", "base", timeout=400)
    yield found
    storage.server.close()


def test_secrets_of_the_storage_are_seen_by_anybody_on_the_way(away: Away) -> None:
    with process_list() as seen:
        said = away.fab("backup") + away.fab("backups") + away.fab("provision", "--check")
    assert f"and sent to s3:{away.storage.url}/shop/pos" in said
    key = (away.shop.folder / "pos.key").read_text().strip()
    for secret in (away.storage.secret, key):
        assert secret not in said
        assert not [line for line in seen if secret in line]
    kept = away.shop.server.run("stat -c '%a %U' /etc/fab-releases/pos.env /etc/fab-releases/pos.key").stdout
    assert kept == "600 root\n600 root\n"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("the secret is wrong", "signature"),
        ("nobody answers there", "connection refused"),
        ("its certificate is unknown", "certificate signed by unknown authority"),
        ("its name is unknown", "no such host"),
    ],
)
def test_a_storage_that_cannot_be_reached_looks_well(away: Away, what: str, reason: str) -> None:
    server = away.shop.server
    server.run(
        "cp -a /etc/fab-releases/pos.env /root/kept; cp /usr/local/lib/fab-releases/pos-offsite.json /root/program"
    )
    match what:
        case "the secret is wrong":
            server.run("sed -i 's/\\(SECRET_ACCESS_KEY=\\).*/\\1wrong/' /etc/fab-releases/pos.env")
        case "nobody answers there":
            server.run("sed -i 's/:9000/:9001/' /usr/local/lib/fab-releases/pos-offsite.json")
        case "its certificate is unknown":
            away.storage.doubted_by(server)
        case "its name is unknown":
            server.run(
                "sed -i 's,https://s3.test,https://s3.pos.invalid,' /usr/local/lib/fab-releases/pos-offsite.json"
            )
    try:
        said = away.fab("backup", check=1)
        assert "on this server only" in said
        assert reason in said
        assert away.storage.secret not in said
        assert "off-site: sending them away failed" in away.fab("check")
    finally:
        server.run(
            "mv /root/kept /etc/fab-releases/pos.env; mv /root/program /usr/local/lib/fab-releases/pos-offsite.json"
        )
        if what == "its certificate is unknown":
            away.storage.trusted_by(server)
    assert "and sent to" in away.fab("backup")


def test_variables_that_are_not_set_are_noticed_on_the_server_only(away: Away) -> None:
    said = away.shop.fab("provision", "--yes", check=2).stderr
    assert "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY not set here" in said


def test_uploads_that_were_lost_are_fetched_from_there(away: Away) -> None:
    server = away.shop.server
    receipt = "/srv/pos/shared/media/receipts/1.txt"
    server.put(receipt, "thank you", owner="app:www-data")
    away.fab("backup")
    server.run(f"rm {receipt}")
    away.fab("restore-media", "--date", "latest", "--yes")
    assert server.run(f"cat {receipt}").stdout == "thank you"


def test_the_server_is_gone_and_nothing_but_key_and_variables_is_left(away: Away, boot: Boot, origin: Path) -> None:
    lost = away.shop.server
    sales = "psql -qAt -d pos -c 'select count(*) from inventory_product'"
    rows = lost.run(sales, user="postgres").stdout
    release = away.shop.current()
    away.fab("backup")
    lost.close()
    second = bare(boot, "s3-second", origin, away.storage)
    shop = Shop(away.shop.folder, (second,))
    found = Away(shop, away.storage)
    found.configure()
    assert "not set here" in shop.fab("recover", "--yes", check=2).stderr
    assert "signature" in found.fab("recover", "--yes", check=1, AWS_SECRET_ACCESS_KEY="wrong")
    said = found.fab("recover", "--yes")
    assert "(RTO)" in said
    assert away.storage.secret not in said
    assert shop.current().rpartition("-")[2] == release.rpartition("-")[2]
    assert second.run(sales, user="postgres").stdout == rows
    assert second.run("cat /srv/pos/shared/media/receipts/1.txt").stdout == "thank you"
    assert "and sent to" in found.fab("backup")
