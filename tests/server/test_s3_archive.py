"""Every change goes to a bucket within a minute: what the server had last comes back although all of it is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.process_list import process_list
from tests.servers import s3
from tests.servers.shop import Shop

from .test_recover import rows, sell, sql
from .test_recover_archive import archived
from .test_s3 import Away, bare

pytestmark = [pytest.mark.server, pytest.mark.nightly]
ARCHIVED = """
[backup]
engine = "pgbackrest"
archive = "s3:{url}/archive/pos"
repository = "s3:{url}/shop/pos"
key = "{folder}/pos.key"
variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
"""
CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"
OPENER = "/etc/pgbackrest/conf.d/fab-releases-storage.conf"
FAILED = "select failed_count from pg_stat_archiver"


@pytest.fixture(scope="module")
def away(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    """`code-only` is live, a full backup is in the archive, and a snapshot beside it."""
    storage = s3.begin(boot("storage"), "shop", "archive")
    first = bare(boot, "archived-first", origin, storage)
    found = Away(Shop(tmp_path_factory.mktemp("archived"), (first,)), storage)
    found.shop.configure(ARCHIVED.format(url=storage.url, folder=found.shop.folder))
    found.fab("provision", "--yes")
    found.shop.fab("deploy", "--ref", "code-only", timeout=400)
    sell(first, 2, "dumped")
    first.run("systemctl start pos-archive.service", timeout=200)
    found.fab("backup")
    yield found
    storage.server.close()


def reaches(away: Away) -> list[object]:
    told = json.loads(away.shop.fab("backups", "--json").stdout)
    found: list[object] = told["archive"]["reaches"]
    return found


def test_what_opens_the_bucket_is_seen_by_anybody(away: Away) -> None:
    server = away.shop.server
    with process_list() as seen:
        sell(server, 1, "seen")
        archived(server)
        said = away.fab("backups") + away.fab("provision", "--check") + away.fab("check")
    key = server.run("sed -n 's/.*cipher-pass=//p' /etc/pgbackrest/conf.d/fab-releases-key.conf").stdout.strip()
    for secret in (away.storage.secret, key):
        assert secret
        assert secret not in said
        assert not [line for line in seen if secret in line]
    assert server.run(f"stat -c '%a %U:%G' {OPENER}").stdout == "640 root:postgres\n"
    assert away.storage.secret not in server.run(f"cat {CONFIGURATION}").stdout


def test_a_second_is_taken_from_the_bucket(away: Away) -> None:
    server = away.shop.server
    sell(server, 2, "before")
    then = sql(server, "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.USZ')").strip()
    held = rows(server)
    sql(server, "truncate sales_sale cascade", "pos")
    said = away.fab("restore-db", "--date", then.replace(" ", "T"), "--yes")
    print(said)
    assert rows(server) == held


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("the secret is wrong", "SignatureDoesNotMatch"),
        ("nobody answers there", "Connection refused"),
    ],
)
def test_a_bucket_that_cannot_be_reached_looks_empty(away: Away, what: str, reason: str) -> None:
    """And what is written meanwhile waits: it is archived once the bucket is there again."""
    server = away.shop.server
    server.run(f"cp -a {OPENER} /root/opener; cp -a {CONFIGURATION} /root/configuration")
    match what:
        case "the secret is wrong":
            server.run(f"sed -i 's/\\(key-secret=\\).*/\\1wrong/' {OPENER}")
        case "nobody answers there":
            server.run(f"sed -i 's/=9000/=9001/' {CONFIGURATION}")
    sell(server, 1, what.replace(" ", "-"))
    said = away.fab("backups")
    print(said)
    assert reason in said
    refused = away.fab("restore-db", "--date", "latest", "--yes", check=4)
    assert reason in refused
    assert away.fab("provision", "--check", check=1)
    assert away.storage.secret not in said + refused
    away.fab("provision", "--yes")
    archived(server)
    assert reaches(away), "the archive is not there again"
    assert server.run(f"cmp {OPENER} /root/opener && cmp {CONFIGURATION} /root/configuration").returncode == 0


def test_what_was_sold_last_is_lost_and_the_lost_server_goes_on(away: Away, boot: Boot, origin: Path) -> None:
    """The one that was given up is alive: what it archives from then on must not get into the archive of the new."""
    lost = away.shop.server
    away.fab("backup")
    sell(lost, 5, "archived")
    archived(lost)
    held = rows(lost)
    sell(lost, 1, "never-archived")
    second = bare(boot, "archived-second", origin, away.storage)
    found = Away(Shop(away.shop.folder, (second,)), away.storage)
    found.shop.configure(ARCHIVED.format(url=away.storage.url, folder=found.shop.folder))
    try:
        wrong = found.fab("recover", "--yes", check=1, AWS_SECRET_ACCESS_KEY="wrong")
        assert "signature" in wrong
        said = found.fab("recover", "--yes")
        print(said)
        assert "further than the newest dump" in said
        assert "is the lost server really dead" in said
        assert "(RTO)" in said
        assert away.storage.secret not in said
        assert rows(second) == held
        assert found.fab("provision", "--check")
        failed = int(sql(lost, FAILED))
        sql(lost, "select txid_current(); select pg_switch_wal()")
        deadline = time.monotonic() + 90
        while int(sql(lost, FAILED)) == failed:
            assert time.monotonic() < deadline, "the lost server still archives"
            time.sleep(0.5)
        sell(second, 2, "after")
        second.run("systemctl start pos-archive.service", timeout=200)
        archived(second)
        now = rows(second)
        found.fab("restore-db", "--date", "latest", "--yes")
        assert rows(second) == now
    finally:
        second.close()
        lost.close()
