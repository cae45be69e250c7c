"""The shop's only database: backed up, proven, put back as it was, and never worse than before."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.config.load import load as configuration
from tasks.config.load import stage
from tasks.remote.files import render
from tasks.remote.machine import bouncer
from tests.conftest import Boot
from tests.servers.shop import Shop, fill

from .conftest import await_page, nightly, put_back
from .load import Answer, Load, assert_none, load, sales

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shop(shop: Shop) -> Shop:
    """`base` is live, three sales were made before a backup, and two after it."""
    sell(shop, "before", 3)
    assert "only the database: media and configuration are in no backup" in shop.fab("backup").stderr
    sell(shop, "after", 2)
    shop.server.snapshot()
    return put_back(shop)


@pytest.fixture
def fresh(shop: Shop) -> Shop:
    return put_back(shop)


def sell(shop: Shop, name: str, count: int) -> None:
    for number in range(count):
        body = json.dumps({"uid": f"{name}-{number}", "product": "coffee", "quantity": 1})
        shop.server.run(
            f"curl -fsS -m 20 -H 'Host: pos.test' -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1/api/sales/"
        )


def sql(shop: Shop, query: str, database: str = "pos") -> str:
    return shop.server.run(f'psql -qAt -d {database} -c "{query}"', user="postgres").stdout.strip()


def sold(shop: Shop) -> int:
    return int(sql(shop, "select count(*) from sales_sale"))


def backups(shop: Shop) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(shop.fab("backups", "--json").stdout)["backups"]
    return found


def newest(shop: Shop) -> str:
    return str(next(one["name"] for one in backups(shop) if one["kind"] == "backup"))


def test_a_restore_loses_more_than_it_said_and_cannot_be_undone(fresh: Shop) -> None:
    told = fresh.fab("restore-db", "--date", "latest", check=2).stderr
    assert "public.sales_sale: +2 rows" in told, "the loss is not shown before it is asked about"
    assert sold(fresh) == 5
    fresh.fab("restore-db", "--date", "latest", "--yes")
    assert sold(fresh) == 3
    assert json.loads(fresh.get())["ok"] is True
    # A later run promised to keep another one, and was cut off before it swapped.
    fresh.server.put("/srv/pos/.releases/swapped.0badcafe", "pos_before_20990101_000000", owner="deploy")
    fresh.fab("restore-db", "--undo", "--yes")
    assert sold(fresh) == 5


def test_users_stand_before_a_closed_shop_while_it_is_restored(fresh: Shop) -> None:
    """Reads and writes go on; what fails is counted, and after the swap everything answered is in the books."""
    with load(fresh.server.address, rate=30) as users:
        time.sleep(2)
        fresh.fab("restore-db", "--date", "latest", "--yes")
        swapped = time.monotonic()
        time.sleep(3)
    failed = tell(users)
    assert_none(one for one in users.answers if not one.ok and one.sent > swapped + 1)
    assert len(failed) <= 30, "more than a second's worth"
    stored = set(sales(fresh.server, users))
    late = {one.uid for one in users.answers if one.uid and one.ok and one.sent > swapped}
    assert late
    assert late <= stored


def tell(users: Load) -> list[Answer]:
    """The failed ones; what users saw of the swap is printed."""
    failed = [one for one in users.answers if not one.ok]
    quick = [one for one in users.answers if one.kind != "slow"]
    moments = sorted(one.done for one in quick if one.ok)
    gap = max(after - before for before, after in pairwise(moments))
    worst = max(one.latency for one in quick)
    print(f"\n  {len(failed)} failed of {len(users.answers)}, {gap:.2f} s without an answer, longest {worst:.2f} s")
    return failed


@pytest.fixture
def pooled(fresh: Shop) -> Shop:
    """pgBouncer before the database, from the files that fab provision writes."""
    fresh.configure("[provision]\npgbouncer = true\n")
    here, put, run = stage(configuration(fresh.folder / "releases.toml")), fresh.server.put, fresh.server.run
    run("apt-get -q update && apt-get -q -y install --no-install-recommends pgbouncer", timeout=300)
    settings = render("pgbouncer", here, listen="127.0.0.1", port=bouncer.PORT, users=bouncer.USERS)
    put("/etc/pgbouncer/pgbouncer.ini", settings, mode=0o640, owner="postgres:postgres")
    known = "select format('%I %I', rolname, rolpassword) from pg_authid where rolname = 'pos'"
    put(bouncer.USERS, sql(fresh, known).replace("pos ", '"pos" ', 1), mode=0o640, owner="postgres:postgres")
    (hold,) = bouncer.hold(here).items()
    put(*hold)
    fresh.install()
    file = "/srv/pos/shared/.env.production"
    run(f"sed -i 's/@[0-9.]*:5432/@127.0.0.1:6432/' {file} && echo DATABASE_DIRECT_PORT=5432 >> {file}")
    run("systemctl restart pgbouncer")
    fresh.fab("deploy", "--ref", "base", "--force", timeout=300)
    return fresh


@pytest.mark.nightly
def test_a_pool_of_connections_does_not_help_in_a_restore(pooled: Shop) -> None:
    """pgBouncer holds requests while the databases are renamed, and none of them fails."""
    with load(pooled.server.address, rate=30) as users:
        time.sleep(2)
        told = pooled.fab("restore-db", "--date", "latest", "--yes").stderr
        time.sleep(3)
    assert "could not hold" not in told
    assert tell(users) == []
    assert sold(pooled) >= 3


@pytest.mark.nightly
def test_somebody_who_does_not_end_his_transaction_shuts_the_shop(pooled: Shop) -> None:
    """PAUSE waits for him, and we do not: requests go on, also when the restore is killed."""
    psql = "PGPASSWORD=pos psql -qAt -h 127.0.0.1 -p 6432 -U pos -d pos"
    pooled.server.run(f"""systemd-run -q bash -c "(echo 'begin; select 1;'; sleep 90) | {psql}" """)
    asked = "select count(*) from pg_stat_activity where state = 'idle in transaction'"
    pooled.server.run(f'until [ "$(psql -qAtc "{asked}")" = 1 ]; do sleep 0.1; done', user="postgres")
    told = pooled.fab("restore-db", "--date", "latest", "--yes").stderr
    assert re.search(r"pgBouncer could not hold requests.* the transaction of pos \(session", told)
    assert json.loads(pooled.get())["database"] == "ok"
    pooled.server.run("systemctl start pos-hold.service && systemctl kill -s KILL pos-hold.service")
    assert json.loads(pooled.get())["database"] == "ok"
    pooled.server.run("systemctl start pos-hold.service")  # and nobody stops it
    await_page(pooled)
    assert pooled.server.run("sudo -n systemctl start ssh", user="deploy", check=False).returncode != 0


@pytest.mark.nightly
def test_what_holds_requests_was_never_provisioned(boot: Boot, origin: Path, tmp_path: Path) -> None:
    """A bare server with pgBouncer, made by `fab provision` alone: nobody's request fails in a restore."""
    server = boot("bare", ssh_port=7822, bare=True)
    server.reset(server.pristine)
    shop = Shop(tmp_path, (server,))
    shop.configure('[provision]\npgbouncer = true\n[environment]\nset = { POS_SLOW = "1" }\n')
    shop.fab("provision", "--yes", timeout=900)
    fill(server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)
    assert shop.fab("provision", "--check").returncode == 0
    sell(shop, "before", 3)
    shop.fab("backup")
    with load(server.address, rate=30) as users:
        time.sleep(2)
        told = shop.fab("restore-db", "--date", "latest", "--yes", timeout=300).stderr
        time.sleep(3)
    assert "could not hold" not in told
    assert "pgBouncer runs on" not in told
    assert tell(users) == []
    assert server.run("ss -tnH state established 'sport = :6432'").stdout, "the application goes round it"
    paused = "journalctl --no-pager -o cat -u pos-hold.service; cat /var/log/postgresql/pgbouncer.log"
    held = server.run(paused).stdout
    assert "Started pos-hold.service" in held
    assert "PAUSE" in held
    assert "RESUME" in held
    may = server.run("sudo -n -l", user="deploy").stdout
    assert re.findall(r"systemctl (\w+) pos-hold.service", may) == ["start", "stop"]


DAMAGE = {
    "cut short": "truncate -s -100 {}",
    "one bit flipped": "printf Q | dd of={} bs=1 seek=20000 conv=notrunc status=none",
    "not there": "rm {}",
    "of somebody else": "cp /etc/passwd {}",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_broken_backup_is_restored(shop: Shop, how: str) -> None:
    """Refused before anything is touched, by every way to it."""
    name = newest(shop)
    path = f"/srv/pos/backups/database/{name}.dump"
    shop.server.run(f"cp -a {path} /root/whole && {DAMAGE[how].format(path)}")
    try:
        before = sql(shop, "select oid from pg_database where datname = 'pos'"), sold(shop)
        assert "size or SHA-256 differ" in shop.fab("restore-db", "--date", "latest", "--yes", check=1).stderr
        shop.fab("drill", check=1)
        failed = json.loads(shop.fab("history", "--json").stdout)["hosts"]["app1"][0]
        assert (failed["event"], failed["more"]["unit"]) == ("failed", "drill")
        assert failed["by"] != "timer"
        assert re.search(r"the last drill failed, \d+ s ago", shop.fab("status").stdout)
        assert (sql(shop, "select oid from pg_database where datname = 'pos'"), sold(shop)) == before
    finally:
        shop.server.run(f"cp -a /root/whole {path}")


def test_a_backup_that_is_not_one_is_listed(shop: Shop) -> None:
    """Half written, without a manifest, or with one that is no JSON."""
    folder = "/srv/pos/backups/database"
    before = backups(shop)
    shop.server.run(
        f"touch {folder}/20261101-000000.dump.part {folder}/20261102-000000.dump; echo '{{' > {folder}/x.json"
    )
    assert backups(shop) == before
    shop.server.run(f"rm {folder}/20261101* {folder}/20261102* {folder}/x.json")


def test_a_backup_is_believed_before_it_was_ever_restored(fresh: Shop) -> None:
    assert "fab drill" in fresh.fab("backups").stdout
    fresh.fab("drill")
    proven = backups(fresh)[0]
    assert proven["proven_at"]
    assert isinstance(proven["proof_seconds"], float)
    assert proven["proof_seconds"] > 0
    assert "fab drill" not in fresh.fab("backups").stdout
    assert sql(fresh, "select count(*) from pg_database where datname ~ '^pos_'") == "0"


def test_a_look_at_a_backup_touches_the_live_database(fresh: Shop) -> None:
    told = fresh.fab("restore-db", "--date", "latest", "--to-scratch").stderr
    scratch = next(word.rstrip(",") for word in told.split() if word.startswith("pos_scratch_"))
    assert sql(fresh, "select count(*) from sales_sale", scratch) == "3"
    assert sold(fresh) == 5


def test_what_only_postgres_may_make_is_said_with_each_backup_and_all_else_comes_back(fresh: Shop) -> None:
    sql(fresh, "create publication everything for all tables; alter schema public owner to postgres")
    sql(fresh, "grant all on schema public to pos; revoke execute on function pg_catalog.pg_sleep(float8) from public")
    said = fresh.fab("backup").stderr
    for what in (
        "publication everything",
        "schema public: its owner postgres",
        "rights on function pg_catalog.pg_sleep",
    ):
        assert what in said
    assert "afterwards, as postgres: CREATE PUBLICATION everything FOR ALL TABLES" in said
    assert "a restore is without 3 things of it" in fresh.fab("status").stdout
    assert "verified, without schema public: its owner postgres, " in fresh.fab("drill").stderr
    assert "not restored (missing privileges):" in fresh.fab("restore-db", "--date", "latest", check=2).stderr
    fresh.fab("restore-db", "--date", "latest", "--yes")
    assert json.loads(fresh.get())["ok"] is True
    assert len(json.loads(fresh.fab("backups", "--json").stdout)["backups"][0]["left_out"]) == 3


def test_a_second_restore_does_not_hide_what_the_first_one_kept(fresh: Shop) -> None:
    for _ in range(2):
        fresh.fab("restore-db", "--date", "latest", "--yes")
    kept = [one["name"] for one in json.loads(fresh.fab("backups", "--json").stdout)["kept"]]
    assert len(kept) == 2
    assert kept[1] in fresh.fab("backups").stdout
    assert "Swap back" in fresh.fab("restore-db", "--undo", "--kept", kept[1], check=2).stderr
    fresh.fab("restore-db", "--undo", "--kept", kept[1], "--yes")
    assert sold(fresh) == 5
    fresh.fab("drop-kept", kept[0], "--yes")
    assert kept[0] not in fresh.fab("backups").stdout
    assert "no restore has kept" in fresh.fab("drop-kept", kept[0], "--yes", check=4).stderr


def test_a_dropped_database_is_made_anew(fresh: Shop) -> None:
    sql(fresh, "alter database pos connection limit 90; alter database pos set lock_timeout to '9s'")
    fresh.fab("backup")
    sql(fresh, "drop database pos with (force)", "postgres")
    assert "is gone: it is made anew" in fresh.fab("restore-db", "--date", "latest", check=2).stderr
    fresh.fab("restore-db", "--date", "latest", "--yes")
    assert sold(fresh) == 5
    assert (
        sql(fresh, "select datconnlimit, current_setting('lock_timeout') from pg_database where datname = 'pos'")
        == "90|9s"
    )
    assert json.loads(fresh.get())["ok"] is True


def test_an_older_schema_stays_under_newer_code(fresh: Shop) -> None:
    """It is said beforehand, and migrated right after; a newer schema than the code's is refused."""
    fresh.fab("deploy", "--ref", "additive-migration", timeout=300)
    name = newest(fresh)
    shown = fresh.fab("restore-db", "--date", "latest", check=2).stderr
    assert "restore point" in shown, "the newest is what the deploy took before it migrated"
    assert "will be migrated right after" in shown
    fresh.fab("restore-db", "--date", "latest", "--yes")
    assert json.loads(fresh.get())["ok"] is True
    unapplied = fresh.fab("manage", "migrate --check", check=None)
    assert unapplied.returncode == 0, unapplied.stdout
    fresh.fab("backup")
    assert newest(fresh) != name
    fresh.fab("rollback", "--yes", timeout=300)
    assert "does not know" in fresh.fab("restore-db", "--date", "latest", "--yes", check=4).stderr


def test_a_site_that_does_not_work_with_it_keeps_the_restored_database(fresh: Shop) -> None:
    """Not well after the swap: swapped back, and nothing that an earlier restore kept is touched.

    Users saw it meanwhile: that is said, and where their sales of that time are.
    """
    fresh.fab("restore-db", "--date", "latest", "--yes")
    fresh.fab("restore-db", "--undo", "--yes")
    assert sold(fresh) == 5
    fresh.configure(more='[health.headers]\nX-Forwarded-Host = "x"\n')
    text = (fresh.folder / "releases.toml").read_text()
    (fresh.folder / "releases.toml").write_text(text.replace('path = "/healthz"', 'path = "/no-such-page"'))
    said = fresh.fab("restore-db", "--date", "latest", "--yes", check=5).stderr
    assert "went live, failed its check, was put back" in said
    kept = re.search(r"what was written meanwhile is in (pos_undone_\w+)", said)
    assert kept
    assert sql(fresh, "select count(*) from sales_sale", kept[1]) == "3"
    assert sold(fresh) == 5
    fresh.configure()
    assert json.loads(fresh.get())["ok"] is True


@pytest.mark.parametrize("kills", [4, *nightly(20)])
def test_a_killed_restore_or_backup_leaves_half_a_database(fresh: Shop, kills: int) -> None:
    """kill -9 of fab at random moments: the live database is whole each time, and the next run works."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"\n  seed {seed}")
    chance = random.Random(seed)
    for number in range(kills):
        words = ("backup",) if number % 2 else ("restore-db", "--date", "latest", "--yes")
        run = fresh.start(*words)
        time.sleep(chance.uniform(0.3, 2.5))
        run.send_signal(signal.SIGKILL)
        run.wait()
        await_page(fresh)  # its session may be in the middle of a swap, to its end
        assert sold(fresh) in (3, 5)
    fresh.fab("backup", "--stage", "production")
    fresh.fab("restore-db", "--date", "latest", "--yes", "--wait", "2m")
    assert sold(fresh) in (3, 5)
    assert sql(fresh, "select count(*) from pg_database where datname ~ '^pos_restore_'") == "0"


def test_a_full_disk_leaves_half_a_backup(fresh: Shop) -> None:
    before = backups(fresh)
    fresh.server.run(
        "mount -t tmpfs -o size=64k tmpfs /srv/pos/backups/database && chown deploy: /srv/pos/backups/database"
    )
    try:
        assert "free" in fresh.fab("backup", check=1).stderr
        assert fresh.server.run("ls -A /srv/pos/backups/database").stdout == ""
    finally:
        fresh.server.run("umount /srv/pos/backups/database")
    assert backups(fresh) == before
