"""A backup is of one moment: every table has the rows it had then, and nobody waits for it longer than he must."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.application import POSTGRES, Cluster, Release, database_name, postgresql, session, started
from tests.meanwhile import meanwhile


def psql(cluster: Cluster, database: str, script: str) -> subprocess.CompletedProcess[str]:
    """What the application says, on a session of its own."""
    words = ["-U", "app", "-h", cluster.folder, "-p", str(cluster.port), "-d", database]
    return subprocess.run(
        [POSTGRES / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words],
        input=script, capture_output=True, text=True, timeout=120, check=True)  # fmt: skip


@contextmanager
def saying(cluster: Cluster, database: str, script: str) -> Iterator[None]:
    """The same, while the block runs; a sleep in it is waited for."""
    thread = threading.Thread(target=psql, args=(cluster, database, script))
    thread.start()
    deadline = time.monotonic() + 30
    asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'SELECT pg_sleep%'"
    while cluster.admin(asked) == "0":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield
    finally:
        thread.join()


def with_rates(release: Release) -> str:
    release.ok("migrate")
    release.sql("CREATE TABLE rates AS SELECT n AS id FROM generate_series(1, 700) n")
    return database_name(release)


def change(release: Release, program: str, text: str, by: str) -> None:
    path = release.root / ".release" / program
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, by))


@pytest.mark.parametrize(
    "rewrite",
    ["TRUNCATE rates; INSERT INTO rates SELECT generate_series(1, 900);",
     "ALTER TABLE rates ALTER id TYPE bigint; INSERT INTO rates SELECT generate_series(1, 200);",
     "CREATE TABLE better AS SELECT generate_series(1, 900) id; DROP TABLE rates;"
     " ALTER TABLE better RENAME TO rates;"],
    ids=["truncated", "altered", "replaced"],
)  # fmt: skip
def test_a_table_that_is_rewritten_while_a_backup_begins_is_in_it_whole(
    on_postgres: Release, cluster: Cluster, tmp_path: Path, rewrite: str
) -> None:
    name = with_rates(on_postgres)
    with saying(cluster, name, f"BEGIN; {rewrite}\nSELECT pg_sleep(3); COMMIT;"):
        answer = on_postgres.run("restore-point", directory=str(tmp_path), name="point")
    assert answer.code == 0, answer.said
    assert "the backup waits for session " in answer.err
    assert " of app (psql, query since " in answer.err
    assert ", which holds public.rates" in answer.err
    on_postgres.ok("drill", directory=str(tmp_path), name="point")
    on_postgres.ok("restore", directory=str(tmp_path), name="point")
    assert on_postgres.sql("SELECT count(*) FROM rates") == ["900"]


def test_a_table_that_is_filled_anew_all_the_time_is_counted_as_it_was_dumped(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = with_rates(on_postgres)
    on_postgres.sql("INSERT INTO shop_item (name) SELECT md5(n::text) FROM generate_series(1, 300000) n")
    again = "BEGIN; TRUNCATE rates; INSERT INTO rates SELECT generate_series(1, 700); COMMIT; SELECT pg_sleep(0.3);\n"

    def import_(over: threading.Event) -> None:
        while not over.is_set():
            psql(cluster, name, again * 3)

    with meanwhile(import_):
        on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    assert json.loads((tmp_path / "point.json").read_text())["rows"]["public.rates"] == 700
    on_postgres.ok("drill", directory=str(tmp_path), name="point")


def test_who_asks_for_a_table_between_our_lock_and_that_of_pg_dump_does_not_hold_us_up_for_ever(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """He waits for us, pg_dump waits for him, and we wait for pg_dump: PostgreSQL cannot see that."""
    name = with_rates(on_postgres)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pg_restore").symlink_to(POSTGRES / "pg_restore")
    slow = (
        f'#!/bin/sh\n[ -e {tmp_path}/slept ] || {{ touch {tmp_path}/slept; sleep 2; }}\nexec {POSTGRES}/pg_dump "$@"\n'
    )
    (tmp_path / "bin/pg_dump").write_text(slow)
    (tmp_path / "bin/pg_dump").chmod(0o755)
    change(on_postgres, "project_client.py", "/usr/lib/postgresql/{major}/bin/", f"{tmp_path}/bin/")
    took: list[float] = []

    def import_(_: threading.Event) -> None:
        while not (tmp_path / "slept").exists():
            time.sleep(0.01)
        began = time.monotonic()
        psql(cluster, name, "TRUNCATE rates; INSERT INTO rates SELECT generate_series(1, 900);")
        took.append(time.monotonic() - began)

    began = time.monotonic()
    with meanwhile(import_):
        on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    assert time.monotonic() - began < 30
    assert took[0] < 10
    assert json.loads((tmp_path / "backups/point.json").read_text())["rows"]["public.rates"] == 900


@pytest.mark.parametrize(
    ("held", "named"),
    [("BEGIN; LOCK TABLE rates", ["session ", " of app (psql, query since ", ", which holds public.rates"]),
     ("BEGIN; LOCK TABLE rates; PREPARE TRANSACTION 'of-the-till'", ["prepared transaction of-the-till of app"])],
    ids=["a session", "a prepared transaction"],
)  # fmt: skip
def test_what_a_backup_waited_for_in_vain_is_named(
    on_postgres: Release, cluster: Cluster, tmp_path: Path, held: str, named: list[str]
) -> None:
    name = with_rates(on_postgres)
    change(on_postgres, "project_hold.py", "PATIENCE = 60", "PATIENCE = 2")
    try:
        with session(cluster, name, held, user="app"):
            said = on_postgres.refused("restore-point", directory=str(tmp_path / "backups"), name="point")
    finally:
        if "PREPARE" in held:
            cluster.admin("ROLLBACK PREPARED 'of-the-till'", name)
    assert all(one in said["error"] for one in named), said
    assert "nothing was written" in said["hint"]
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".sequence"]
    on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")


def test_nobody_waits_for_a_backup_that_itself_waits(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    """A plain pg_dump would have kept shop_item, which it locked before, for as long as somebody else has rates."""
    name = with_rates(on_postgres)
    took: list[float] = []
    backup = threading.Thread(
        target=lambda: on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    )
    with session(cluster, name, "BEGIN; LOCK TABLE rates", user="app"):
        backup.start()
        until = time.monotonic() + 6
        while time.monotonic() < until:
            began = time.monotonic()
            psql(cluster, name, "BEGIN; LOCK TABLE shop_item; LOCK TABLE django_migrations; COMMIT;")
            took.append(time.monotonic() - began)
        assert backup.is_alive()
    backup.join()
    print(f"\n  the longest of {len(took)}: {max(took):.2f} s")
    assert max(took) < 4
    assert (tmp_path / "backups/point.json").exists()


# --- many tables ---

TENANTS = """
DO $$ BEGIN FOR tenant IN 1..{count} LOOP
    EXECUTE format('CREATE TABLE tenant_%s (id int PRIMARY KEY, a int, b int)', tenant);
    {more}
    IF tenant % 20 = 0 THEN COMMIT; END IF;
END LOOP; END $$
"""
INDEXES = "".join(
    f"EXECUTE format('CREATE INDEX ON tenant_%s ({columns})', tenant);"
    for columns in ("a", "b", "a, b", "b, a")
)  # fmt: skip


@pytest.fixture(scope="module")
def narrow() -> Iterator[Cluster]:
    """As the usual one, a tenth as large: room for some 1,000 locks."""
    folder = Path(tempfile.mkdtemp(prefix="project-pg-"))
    try:
        with started(folder, "max_connections=20", "max_locks_per_transaction=25", "max_worker_processes=2") as made:
            yield made
    finally:
        shutil.rmtree(folder)


def test_a_database_of_more_indexes_than_there_is_room_for_locks_is_backed_up(
    bare: Release, narrow: Cluster, tmp_path: Path
) -> None:
    """As pg_dump itself does, and with room left for those who use the application."""
    bare.environment["DATABASE"] = postgresql(narrow, narrow.new_database())
    bare.ok("migrate")
    psql(narrow, database_name(bare), TENANTS.format(count=400, more=INDEXES))
    bare.ok("restore-point", directory=str(tmp_path), name="point")
    manifest = json.loads((tmp_path / "point.json").read_text())
    assert sum(table.startswith("public.tenant_") for table in manifest["rows"]) == 400


def test_a_database_of_more_tables_than_there_is_room_for_locks_is_told_the_setting(
    bare: Release, narrow: Cluster, tmp_path: Path
) -> None:
    bare.environment["DATABASE"] = postgresql(narrow, narrow.new_database())
    bare.ok("migrate")
    psql(narrow, database_name(bare), TENANTS.format(count=3000, more=""))
    said = bare.refused("restore-point", directory=str(tmp_path / "backups"), name="point")
    assert "ALTER SYSTEM SET max_locks_per_transaction = " in said["hint"]
    assert "3,003 tables" in said["hint"]
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".sequence"]


@pytest.mark.nightly
def test_five_thousand_tables_are_backed_up_while_people_use_them(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    psql(cluster, name, TENANTS.format(count=5000, more=""))
    reads = "BEGIN; " + "".join(f"SELECT count(*) FROM tenant_{n};" for n in range(1, 40)) + " COMMIT;\n"

    def people(over: threading.Event) -> None:
        while not over.is_set():
            psql(cluster, name, reads)

    with meanwhile(people):
        on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
