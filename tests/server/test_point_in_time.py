"""Somebody forgot a WHERE at 14:35:10. What was sold until 14:35:09 must come back, and the archive must not lie."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.servers.shop import Shop

from .conftest import await_page

pytestmark = pytest.mark.server
ENGINE = """\
[provision]
redis = false
nginx = false
firewall = false
logs = false
environment = false

[backup]
engine = "pgbackrest"
"""
LOOK = "runuser -u postgres -- /usr/local/lib/fab-releases/pos-archive look pos"
SIDE = "/var/lib/postgresql/fab-releases/pos"
SEGMENTS = "/var/lib/pgbackrest/archive/main/15-1"


@pytest.fixture(scope="module")
def shop(shop: Shop) -> Shop:
    """`base` is live, and every change is archived since a first full backup."""
    shop.configure(ENGINE)
    shop.fab("provision", "--yes", timeout=400)
    await_backups(shop, 1)
    shop.server.snapshot()
    return put_back(shop)


@pytest.fixture
def fresh(shop: Shop) -> Shop:
    return put_back(shop)


def put_back(shop: Shop) -> Shop:
    shop.server.reset()
    shop.configure(ENGINE)
    await_page(shop)
    return shop


def look(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shop.server.run(LOOK).stdout)
    return found


def await_backups(shop: Shop, count: int) -> None:
    deadline = time.monotonic() + 180
    while (found := look(shop).get("backups")) != count:
        assert time.monotonic() < deadline, f"{found} backups in the archive"
        time.sleep(0.3)


def sell(shop: Shop, *names: str) -> None:
    for name in names:
        body = json.dumps({"uid": name, "product": "coffee", "quantity": 1})
        shop.server.run(
            f"curl -fsS -m 20 -H 'Host: pos.test' -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1/api/sales/"
        )


def sql(shop: Shop, query: str, database: str = "pos") -> str:
    return shop.server.run(f"psql -qAt -d {database}", user="postgres", input=query).stdout.strip()


def sold(shop: Shop) -> set[str]:
    return set(sql(shop, "select uid from sales_sale").split())


def pause(shop: Shop) -> str:
    """A whole second in which nothing is written, as a person would say it."""
    time.sleep(1.2)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    time.sleep(1.2)
    return at


def identity(shop: Shop) -> str:
    """Changes with every swap."""
    return sql(shop, "select oid from pg_database where datname = 'pos'")


def assert_nothing_is_left(shop: Shop) -> None:
    assert shop.server.run(f"ls -d {SIDE}", check=False).stdout == ""
    assert shop.server.run("systemctl list-units --plain --no-legend 'pos-moment@*'").stdout == ""
    assert look(shop)["leftover"] is False


def test_a_delete_without_a_where_is_final(shop: Shop) -> None:
    """What was sold seconds before it is there again, what came after is not, and there is a way back."""
    sell(shop, "before-1", "before-2")
    moment = pause(shop)
    sql(shop, "delete from sales_sale")
    sell(shop, "after")
    told = shop.fab("restore-db", "--date", moment, "--yes").stderr
    assert sold(shop) == {"before-1", "before-2"}
    assert json.loads(shop.get())["ok"] is True
    assert "at-20" in told
    assert_nothing_is_left(shop)
    kinds = {one["name"]: one for one in json.loads(shop.fab("backups", "--json").stdout)["backups"]}
    (taken,) = (one for one in kinds.values() if one["kind"] == "moment")
    assert datetime.fromisoformat(str(taken["taken_at"])) == datetime.fromisoformat(moment)
    assert taken["release"] == shop.current()
    shop.fab("restore-db", "--undo", "--yes")
    assert sold(shop) == {"after"}


def test_a_moment_that_cannot_be_had_is_found_out_late(shop: Shop) -> None:
    """Refused before anything is restored, with what can be had instead; a dry run takes nothing either."""
    before = identity(shop)
    told = shop.fab("restore-db", "--date", "2026-01-02 03:04", "--yes", check=4).stderr
    assert "2026-01-02 03:04:00" in told
    start = datetime.fromisoformat(look(shop)["spans"][0]["start"]).astimezone()
    assert f"from {start:%Y-%m-%d %H:%M:%S} " in told
    assert "the last segment was archived" in told
    shop.fab("restore-db", "--date", "latest", "--dry-run")
    assert_nothing_is_left(shop)
    assert identity(shop) == before
    shown = shop.fab("backups").stdout
    assert f"one can go back to any second from {start:%Y-%m-%d %H:%M:%S} " in shown


@pytest.mark.nightly
def test_a_second_provision_changes_the_archive(shop: Shop) -> None:
    assert "nothing to do" in shop.fab("provision", "--yes").stderr
    shop.server.run("echo 'archive_command = true' >> /etc/postgresql/15/main/conf.d/fab-releases-archive.conf")
    shop.server.run(
        "chmod 644 /etc/pgbackrest/conf.d/fab-releases-key.conf; systemctl -q disable --now pos-archive.timer"
    )
    named = {one["thing"] for one in json.loads(shop.fab("provision", "--check", "--json", check=1).stdout)}
    assert len(named) == 3
    shop.fab("provision", "--yes")
    assert shop.fab("provision", "--check").returncode == 0
    secret = shop.server.run("sed -n 's/.*cipher-pass=//p' /etc/pgbackrest/conf.d/fab-releases-key.conf").stdout.strip()
    assert len(secret) > 30
    assert secret not in shop.fab("provision", "--dry-run").stdout


@pytest.mark.nightly
def test_a_killed_run_leaves_a_second_cluster_beside_the_live_one(fresh: Shop) -> None:
    """kill -9 of fab, of what restores, of the cluster beside, and a power loss, each while it is at work."""
    sell(fresh, "one")
    before = identity(fresh)
    for step in ("data/PG_VERSION", "log"):
        run = fresh.start("restore-db", "--date", "latest", "--yes")
        await_side(fresh, step)
        run.send_signal(signal.SIGKILL)
        run.wait()
        await_nothing(fresh)
        run = fresh.start("restore-db", "--date", "latest", "--yes")
        await_side(fresh, step)
        fresh.server.run("systemctl kill -s KILL pos-moment@latest.service")
        said = run.communicate()[0]
        assert run.returncode == 1, said
        assert "the live database is untouched" in said or "database" in said
        assert identity(fresh) == before
        assert sold(fresh) == {"one"}
    run = fresh.start("restore-db", "--date", "latest", "--yes")
    await_side(fresh, "data/PG_VERSION")
    fresh.server.power_loss()
    run.wait()
    fresh.server.start()
    await_page(fresh)
    assert look(fresh)["leftover"] is True
    assert "has left a copy of the cluster beside" in fresh.fab("backups").stdout
    assert identity(fresh) == before
    told = fresh.fab("restore-db", "--date", "latest", "--yes", "--wait", "2m").stderr
    assert "it is removed first" in told
    assert identity(fresh) != before
    assert sold(fresh) == {"one"}
    assert_nothing_is_left(fresh)


def await_side(shop: Shop, step: str) -> None:
    deadline = time.monotonic() + 90
    while shop.server.run(f"test -e {SIDE}/{step}", check=False).returncode:
        assert time.monotonic() < deadline, f"no {step}"


def await_nothing(shop: Shop) -> None:
    deadline = time.monotonic() + 90
    while shop.server.run(f"test -e {SIDE}", check=False).returncode == 0:
        assert time.monotonic() < deadline, "the copy beside is still there"
        time.sleep(0.1)


@pytest.mark.nightly
def test_a_gap_in_the_archive_is_restored_across(fresh: Shop) -> None:
    """A segment that is gone is said, nothing after it can be had, and a full backup mends it."""
    for name in ("one", "two", "three"):
        sell(fresh, name)
        sql(fresh, "select pg_switch_wal()")
        lost = pause(fresh)
    newest = fresh.server.run(f"find {SEGMENTS} -name '*.zst' | sort | tail -n 2 | head -n 1").stdout.strip()
    fresh.server.run(f"rm {newest}")
    found = look(fresh)
    assert [one["open"] for one in found["spans"]] == [False]
    assert "a gap in the archive" in fresh.fab("backups").stdout
    before = identity(fresh)
    told = fresh.fab("restore-db", "--date", lost, "--yes", check=4).stderr
    assert "cannot be reached" in told
    fresh.fab("restore-db", "--date", "latest", "--yes", check=4)
    assert identity(fresh) == before
    fresh.server.run("systemctl start pos-archive.service", timeout=120)
    assert [one["open"] for one in look(fresh)["spans"]] == [False, True]
    fresh.fab("restore-db", "--date", "latest", "--yes")
    assert sold(fresh) == {"one", "two", "three"}


@pytest.mark.nightly
def test_an_archive_that_cannot_be_written_to_looks_well(fresh: Shop) -> None:
    fresh.server.run("chattr +i /var/lib/pgbackrest 2>/dev/null; chown -R root: /var/lib/pgbackrest/archive")
    sell(fresh, "one")
    sql(fresh, "select pg_switch_wal()")
    deadline = time.monotonic() + 60
    while not int(sql(fresh, "select failed_count from pg_stat_archiver")):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    shown = fresh.fab("backups").stdout
    assert "look at: the archive cannot be read" in shown or "look at: archiving failed" in shown
    assert fresh.server.run("systemctl start pos-archive.service", check=False, timeout=120).returncode
    deadline = time.monotonic() + 60  # who tells of it starts after it has ended
    while '"event": "failed"' not in (told := fresh.server.run("cat /srv/pos/.releases/journal.jsonl").stdout):
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    before = identity(fresh)
    fresh.fab("restore-db", "--date", "latest", "--yes", check=None, timeout=300)
    assert identity(fresh) == before


@pytest.mark.nightly
def test_what_is_replayed_writes_over_the_live_database(fresh: Shop) -> None:
    """A tablespace that was made after the backup would be replayed into the very folder of the live one."""
    fresh.server.run("install -d -o postgres -m 700 /var/lib/postgresql/space")
    sql(fresh, "create tablespace aside location '/var/lib/postgresql/space';")
    sql(fresh, "create table kept (name text) tablespace aside; insert into kept values ('then'); checkpoint;")
    files = "find /var/lib/postgresql/space -type f -exec sha256sum {} + | sort"
    moment = pause(fresh)
    sql(fresh, "update kept set name = 'now'; checkpoint;")
    before = fresh.server.run(files).stdout
    told = fresh.fab("restore-db", "--date", moment, "--yes", check=1).stderr
    assert "a tablespace was made" in told
    assert fresh.server.run(files).stdout == before
    assert_nothing_is_left(fresh)


@pytest.mark.nightly
def test_what_was_true_only_then_keeps_a_moment_from_being_had(fresh: Shop) -> None:
    """Another password since, a database that was swapped since the backup, tablespaces, and settings by ALTER SYSTEM
    that would make a second cluster do the live one's work.
    """
    fresh.server.run("install -d -o postgres -m 700 /var/lib/postgresql/space")
    sql(fresh, "create tablespace aside location '/var/lib/postgresql/space';")
    sql(
        fresh,
        "create table kept (name text) tablespace aside; alter table kept owner to pos; insert into kept values ('x')",
    )
    sql(fresh, "grant create on tablespace aside to pos")
    fresh.server.run("runuser -u postgres -- pgbackrest --stanza=main --type=incr backup", timeout=300)
    sell(fresh, "one")
    fresh.fab("backup")
    fresh.fab("restore-db", "--date", "latest", "--yes")
    sell(fresh, "two")
    sql(fresh, "alter system set listen_addresses = '*'; alter system set synchronous_standby_names = '';")
    sql(fresh, "update kept set name = 'moment'")
    moment = pause(fresh)
    sql(fresh, "update kept set name = 'now'")
    sql(fresh, "alter role pos password 'other'")
    text = fresh.server.run("cat /srv/pos/shared/.env.production").stdout.replace("pos:pos@", "pos:other@")
    fresh.server.put("/srv/pos/shared/.env.production", text, mode=0o640, owner="deploy:app")
    fresh.fab("restore-db", "--date", moment, "--to-scratch")
    scratch = sql(fresh, "select datname from pg_database where datname like 'pos_scratch%'")
    assert sql(fresh, "select name from kept", scratch) == "moment"
    assert set(sql(fresh, "select uid from sales_sale", scratch).split()) == {"one", "two"}
    assert sql(fresh, "select name from kept") == "now"


@pytest.mark.nightly
def test_somebody_elses_archive_is_taken_away_from_them(fresh: Shop) -> None:
    folder = "/etc/postgresql/15/main/conf.d"
    fresh.server.run(f"rm {folder}/fab-releases-archive.conf")
    fresh.server.put(f"{folder}/other.conf", "archive_mode = on\narchive_command = 'true'\n")
    fresh.server.run("systemctl restart postgresql@15-main")
    await_page(fresh)
    assert "PostgreSQL archives already" in fresh.fab("provision", "--yes", check=1).stderr
    assert sql(fresh, "show archive_command", "postgres") == "true"
