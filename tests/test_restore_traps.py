"""What makes restores fail, or worse, succeed: it is told before anything is touched, with a next step."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.application import (
    POSTGRES,
    Cluster,
    Release,
    database_name,
    items,
    made_in,
    postgresql,
    session,
    started,
)
from tests.meanwhile import meanwhile

Changed = tuple[dict[str, Any], bytes]


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory, python: Path, cluster: Cluster) -> tuple[Release, Path]:
    """`kept` was saved, `newer` came after it; nothing in this file that uses it gets as far as a swap."""
    folder = tmp_path_factory.mktemp("traps")
    release = made_in(folder, python)
    release.environment["DATABASE"] = postgresql(cluster, cluster.new_database())
    release.write(".release/services.json", '{"application": "pos"}')
    release.ok("migrate")
    release.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    release.ok("restore-point", directory=str(folder / "backups"), name="point")
    release.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    return release, folder / "backups"


def cut(share: float) -> Callable[[dict[str, Any], bytes], Changed]:
    return lambda manifest, data: (manifest, data[: int(len(data) * share)])


def flipped(manifest: dict[str, Any], data: bytes) -> Changed:
    return manifest, data[:900] + bytes([data[900] ^ 1]) + data[901:]


def agreeing(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any], bytes], Changed]:
    """Somebody wrote a manifest for what is damaged."""

    def changed(manifest: dict[str, Any], data: bytes) -> Changed:
        data = change(data)
        return {**manifest, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, data

    return changed


def says(**more: Any) -> Callable[[dict[str, Any], bytes], Changed]:
    return lambda manifest, data: ({**manifest, **more}, data)


NOT_WRITTEN = "size or SHA-256 differ"
REFUSED: dict[str, tuple[Callable[[dict[str, Any], bytes], Changed], str, str]] = {
    **{f"cut at {share:.1%}": (cut(share), NOT_WRITTEN, "name another one") for share in (0, 0.05, 0.5, 0.95, 0.999)},
    "cut in half, and described so": (agreeing(lambda data: data[: len(data) // 2]), "pg_restore failed", "stderr"),
    "all but its last bytes, and described so": (agreeing(lambda data: data[:-5]), "pg_restore failed", "stderr"),
    "a bit flipped": (flipped, NOT_WRITTEN, "name another one"),
    "half uploaded": (lambda one, data: (one, data[:4096] + b"\0" * (len(data) - 4096)), NOT_WRITTEN, "another one"),
    "something else": (agreeing(lambda _: b"root:x:0:0:"), "pg_restore failed", "stderr"),
    "of a newer pg_dump": (
        agreeing(lambda data: data[:6] + b"\x63" + data[7:]),
        "unsupported version (1.99) in file header",
        "restore it where PostgreSQL is newer",
    ),
    "of a newer server": (says(server_version="99.1 (Debian)"), "PostgreSQL 99", "name another one"),
    "of another encoding": (says(encoding="LATIN1"), "LATIN1", "UTF8"),
    "with an extension that is not here": (says(extensions=["of_ours"]), "not installed", "apt-cache search"),
    "with an owner that is not here": (says(owners=["cashier"]), "cashier", 'CREATE ROLE cashier;'),
    "with a grant to nobody": (says(roles=['"The Auditor"']), "Auditor", 'CREATE ROLE "The Auditor";'),
    "of another application": (says(application="crm"), "another application, crm", "name another one"),
    "of another kind of database": (says(engine="sqlite"), "is of sqlite", "another one"),
    "with half a manifest": (lambda one, data: ({"engine": one["engine"]}, data), "No restore point", "does not say"),
    "larger than the disk": (says(database_bytes=1 << 60), "bytes free", "Nothing was touched"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_backup_that_cannot_work_is_tried(
    point: tuple[Release, Path], cluster: Cluster, tmp_path: Path, case: str
) -> None:
    release, backups = point
    change, reason, next_step = REFUSED[case]
    data = (backups / "point.dump").read_bytes()
    manifest, data = change(json.loads((backups / "point.json").read_text()), data)
    (tmp_path / "point.dump").write_bytes(data)
    (tmp_path / "point.json").write_text(json.dumps(manifest))
    before = untouched(release, cluster)
    said = release.refused("restore", directory=str(tmp_path), name="point")
    assert reason in said["error"], said
    assert next_step in said["hint"], said
    assert untouched(release, cluster) == before


@pytest.mark.parametrize("case", ["something else", "of a newer pg_dump"])
def test_it_is_asked_about_before_anybody_knows_that_it_cannot_be_read(
    point: tuple[Release, Path], tmp_path: Path, case: str
) -> None:
    release, backups = point
    change, reason, _ = REFUSED[case]
    manifest, data = change(json.loads((backups / "point.json").read_text()), (backups / "point.dump").read_bytes())
    (tmp_path / "point.dump").write_bytes(data)
    (tmp_path / "point.json").write_text(json.dumps(manifest))
    assert reason in release.refused("restore", directory=str(tmp_path), name="point", plan_only=True)["error"]


def untouched(release: Release, cluster: Cluster) -> tuple[str, list[str], list[str]]:
    name = database_name(release)
    return cluster.admin(f"SELECT oid FROM pg_database WHERE datname = '{name}'"), cluster.names(name), items(release)


def test_a_wrong_password_is_found_after_hours(point: tuple[Release, Path], cluster: Cluster) -> None:
    release, backups = point
    before = untouched(release, cluster)
    wrong = {"DATABASE": postgresql(cluster, database_name(release), PASSWORD="not-this-one")}
    answer = release.run("restore", wrong, directory=str(backups), name="point")
    assert "does not let us in" in answer.said["error"]
    assert "password" in answer.said["hint"]
    assert "not-this-one" not in answer.out + answer.err
    assert untouched(release, cluster) == before


def test_a_manifest_leads_out_of_its_folder(point: tuple[Release, Path], tmp_path: Path) -> None:
    release, backups = point
    manifest = json.loads((backups / "point.json").read_text())
    (tmp_path / "point.json").write_text(json.dumps({**manifest, "file": str(backups / "point.dump")}))
    assert NOT_WRITTEN in release.refused("restore", directory=str(tmp_path), name="point")["error"]


HOLDING = {
    "prepared transaction of-the-till": (
        "BEGIN; CREATE TABLE held (); PREPARE TRANSACTION 'of-the-till'",
        "ROLLBACK PREPARED 'of-the-till'",
    ),
    "replication slot of_a_copy": (
        "SELECT pg_create_logical_replication_slot('of_a_copy', 'pgoutput')",
        "SELECT pg_drop_replication_slot('of_a_copy')",
    ),
    "subscription of_headquarters": (
        "CREATE SUBSCRIPTION of_headquarters CONNECTION 'host=x' PUBLICATION p WITH (connect = off, slot_name = NONE)",
        "DROP SUBSCRIPTION of_headquarters",
    ),
}


@pytest.mark.parametrize("what", HOLDING)
def test_what_holds_the_database_is_found_out_in_the_swap(
    point: tuple[Release, Path], cluster: Cluster, what: str
) -> None:
    """By its name, for restores; a drill swaps nothing and is not disturbed."""
    release, backups = point
    before, name = untouched(release, cluster), database_name(release)
    take, drop = HOLDING[what]
    cluster.admin(take, name)
    try:
        said = release.refused("restore", directory=str(backups), name="point")
        assert f"because of {what}" in said["error"]
        assert untouched(release, cluster) == before
        release.ok("drill", directory=str(backups), name="point")
    finally:
        cluster.admin(drop, name)
    assert untouched(release, cluster) == before


def test_extensions_grants_and_tables_of_other_roles_are_lost(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(on_postgres)
    cluster.admin("CREATE ROLE cashiers; CREATE ROLE auditor; GRANT cashiers TO app")
    on_postgres.ok("migrate")
    cluster.admin(
        "CREATE EXTENSION citext; CREATE TABLE till (id int); ALTER TABLE till OWNER TO cashiers;"
        "GRANT SELECT ON shop_item TO auditor",
        name,
    )
    asked = """SELECT relname, relowner::regrole, relacl::text FROM pg_class WHERE relname IN ('till', 'shop_item')
        UNION ALL SELECT extname, NULL, NULL FROM pg_extension
        UNION ALL SELECT nspname, nspowner::regrole, nspacl::text FROM pg_namespace WHERE nspname = 'public'
        ORDER BY 1"""
    before = cluster.admin(asked, name)
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    taken = json.loads((tmp_path / "point.json").read_text())
    assert taken["owners"] == ["app", "cashiers"]
    assert "auditor" in taken["roles"]
    cluster.admin("REVOKE ALL ON shop_item FROM auditor; DROP EXTENSION citext; ALTER TABLE till OWNER TO app", name)
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point")["not_carried"] == []
    assert cluster.admin(asked, name) == before


def test_what_only_postgres_may_set_is_lost_without_a_word(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """Said beforehand and afterwards, as what postgres has to say; the live database is not changed by the look."""
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    name = database_name(on_postgres)
    statement = f"""ALTER DATABASE "{name}" SET log_min_duration_statement TO '250ms';"""
    cluster.admin(statement)
    asked = f"""SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
        WHERE datname = '{name}'"""
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point", plan_only=True)["not_carried"] == [
        statement
    ]
    assert cluster.admin(asked) == "{log_min_duration_statement=250ms}"
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point")["not_carried"] == [statement]
    cluster.admin(statement)
    assert cluster.admin(asked) == "{log_min_duration_statement=250ms}"


def test_autovacuum_keeps_everybody_inside(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    """Its worker is nobody's to end, and must not stop us from ending the others; PostgreSQL ends it by itself."""
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    on_postgres.sql("INSERT INTO shop_item (name) SELECT 'x' FROM generate_series(1, 20000)")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    slow = (
        "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_insert_threshold = 1"
    )
    on_postgres.sql(f"ALTER TABLE shop_item SET ({slow})")
    at_work = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'autovacuum worker'"
    cluster.admin("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    cluster.admin("SELECT pg_reload_conf()")
    try:
        deadline = time.monotonic() + 90
        while cluster.admin(at_work) == "0":
            assert time.monotonic() < deadline
            on_postgres.sql("UPDATE shop_item SET name = 'y'")
            time.sleep(0.5)
        with session(cluster, name, "SELECT 1", user="app"):
            on_postgres.ok("restore", directory=str(tmp_path), name="point")
    finally:
        cluster.admin("ALTER SYSTEM RESET autovacuum_naptime")
        cluster.admin("SELECT pg_reload_conf()")


def test_a_limit_for_requests_ends_a_restore(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    """statement_timeout of the application: ANALYZE of a slow index takes longer than any request may."""
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    cluster.admin(
        "CREATE FUNCTION slow(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(0.02); RETURN $1; END';"
        "ALTER FUNCTION slow OWNER TO app; GRANT CREATE ON SCHEMA public TO app",
        name,
    )
    on_postgres.sql("INSERT INTO shop_item (name) SELECT 'x' FROM generate_series(1, 40)")
    on_postgres.sql("CREATE INDEX ON shop_item (slow(id))")
    on_postgres.environment["DATABASE"] = postgresql(cluster, name, OPTIONS={"options": "-c statement_timeout=400"})
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.ok("restore", directory=str(tmp_path), name="point")


def test_what_is_written_during_a_backup_makes_it_useless(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """The rows of the manifest are those of the dump, whatever came in meanwhile."""
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) SELECT 'x' FROM generate_series(1, 100000)")
    psql = [POSTGRES / "psql", "-XAtq", "-U", "app", "-h", cluster.folder, "-p", str(cluster.port)]
    process = subprocess.Popen(
        [*psql, "-d", database_name(on_postgres)], stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write("INSERT INTO shop_item (name) VALUES ('sold') \\watch 0.01\n")
    process.stdin.flush()
    try:
        on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    finally:
        process.kill()
        process.wait()
    sold = on_postgres.sql("SELECT count(*) FROM shop_item WHERE name = 'sold'")
    assert sold != ["0"]
    on_postgres.ok("restore", directory=str(tmp_path), name="point")


def test_the_database_next_door_is_taken_for_ours(
    point: tuple[Release, Path], cluster: Cluster, tmp_path: Path
) -> None:
    """Names of 63 bytes that differ in the last one: neither leftovers nor kept ones of the other are touched."""
    release, _ = point
    ours, theirs = ("x" * 62 + end for end in "ab")
    for name in (ours, theirs):
        cluster.admin(f"CREATE DATABASE {name} OWNER app TEMPLATE template0")
    both = {name: {**release.environment, "DATABASE": postgresql(cluster, name)} for name in (ours, theirs)}
    restored = {}
    for name, environment in both.items():
        for verb in ("migrate", "restore-point", "restore"):
            answer = release.run(verb, environment, directory=str(tmp_path / name), name="point")
            assert answer.code == 0, answer.said
        restored[name] = answer.said["kept"]
    kept = restored[theirs]
    beside = kept[1:].replace("_before_", "_restore_")  # as long as a name can be
    cluster.admin(f"CREATE DATABASE {beside} OWNER app")
    with session(cluster, theirs, "SELECT 1", user="app") as inside:
        assert release.run("restore", both[ours], directory=str(tmp_path / ours), name="point").code == 0
        assert inside.poll() is None
        assert cluster.admin(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{theirs}'") == "1"
    assert set(cluster.names("xxxx")) >= {beside, kept, theirs, restored[ours]}
    said = release.run("undo-restore", both[ours], kept=kept).said
    assert f"There is no database {kept}" in said["error"]
    said = release.run("undo-restore", both[ours], kept=theirs).said
    assert f"There is no database {theirs}" in said["error"]
    cluster.admin(f"DROP DATABASE {beside}")


def test_a_run_that_was_cut_off_in_the_swap_cannot_say_what_it_kept(on_postgres: Release, tmp_path: Path) -> None:
    """The name is on disk before the swap, and an undo of a swap that never was does nothing."""
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    promise = tmp_path / "promise"
    kept = on_postgres.ok("restore", directory=str(tmp_path), name="point", promise=str(promise))["kept"]
    assert promise.read_text() == kept
    assert [one["name"] for one in on_postgres.ok("kept")["databases"]] == [kept]
    undone = on_postgres.ok("undo-restore", kept=kept, if_kept=True)["kept"]
    assert items(on_postgres) == ["kept", "newer"]
    assert undone
    assert on_postgres.ok("undo-restore", kept=kept, if_kept=True) == {"kept": ""}
    assert items(on_postgres) == ["kept", "newer"]


# --- SQLite ---


@pytest.fixture
def on_sqlite(bare: Release, tmp_path: Path) -> tuple[Release, Path]:
    """In WAL mode; `kept` was saved, `newer` came after it."""
    bare.ok("migrate")
    bare.sql("PRAGMA journal_mode = WAL")
    bare.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    bare.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    bare.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    return bare, Path(database_name(bare))


def test_a_cut_off_swap_of_files_is_taken_for_a_whole_one(on_sqlite: tuple[Release, Path], tmp_path: Path) -> None:
    """Cut off just before the rename, there is a second name of the live file; the journal of a dead copy is no use."""
    release, live = on_sqlite
    kept = live.with_name(f"{live.name}.before-20261122101530000000")
    kept.hardlink_to(live)
    for ending in (".restore", ".restore-journal", ".restore-wal"):
        live.with_name(live.name + ending).write_bytes(b"\xd9\xd5\x05\xf9 half of something" * 100)
    assert release.ok("undo-restore", kept=kept.name, if_kept=True) == {"kept": ""}
    assert items(release) == ["kept", "newer"]
    release.ok("restore", directory=str(tmp_path / "backups"), name="point")
    assert items(release) == ["kept"]
    assert not list(live.parent.glob("*.restore*"))


@pytest.mark.nightly
def test_a_file_is_swapped_under_a_sale(on_sqlite: tuple[Release, Path], tmp_path: Path) -> None:
    """Somebody writes for longer than we wait: refused, and what he writes is there."""
    release, live = on_sqlite
    with closing(sqlite3.connect(live, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO shop_item (name) VALUES ('sold meanwhile')")
        said = release.refused("restore", directory=str(tmp_path / "backups"), name="point")
        assert "in use" in said["error"]
        writer.execute("COMMIT")
    assert items(release) == ["kept", "newer", "sold meanwhile"]
    assert {path.name for path in live.parent.iterdir()} <= {live.name, f"{live.name}-wal", f"{live.name}-shm"}


# --- room ---


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    if (
        os.getuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]).returncode
    ):
        pytest.skip("a small file system needs mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def fill(folder: Path, stop: threading.Event, when_full: Callable[[], object] = lambda: None) -> None:
    """Whatever becomes free is taken, until `stop`: most of it at once."""
    status = os.statvfs(folder)
    with (folder / "filling").open("ab", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize * 3 // 4)
        while not stop.is_set():
            try:
                file.write(b"x" * (1 << 20))
            except OSError:
                when_full()
                stop.wait(0.002)


def test_a_disk_that_fills_up_leaves_half_a_backup(on_postgres: Release, cluster: Cluster) -> None:
    """pg_dump has begun, and is held up until there is no room."""
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) SELECT md5(i::text) FROM generate_series(1, 300000) AS i")
    on_postgres.sql("CREATE SEQUENCE held")
    lock = session(cluster, database_name(on_postgres), "BEGIN; DROP SEQUENCE held")
    with small_disk(200) as folder, lock as blocker:

        def fill_later(over: threading.Event) -> None:
            while not list(folder.glob("*.dump.part")) and not over.is_set():
                time.sleep(0.005)
            fill(folder, over, blocker.kill)

        with meanwhile(fill_later):
            said = on_postgres.refused("restore-point", directory=str(folder), name="point")
        assert "pg_dump failed" in said["error"]
        assert {path.name for path in folder.iterdir()} == {"filling", ".sequence"}
        (folder / "filling").unlink()
        on_postgres.ok("restore-point", directory=str(folder), name="point")


@pytest.mark.nightly
def test_the_databases_disk_fills_up_in_a_restore(bare: Release, python: Path, tmp_path: Path) -> None:
    """Refused beforehand where that can be seen; otherwise the live database is whole, and the next run works."""
    with small_disk(360) as folder, started(folder, "max_wal_size=32MB", "min_wal_size=32MB") as cluster:
        bare.environment["DATABASE"] = postgresql(cluster, cluster.new_database())
        name = database_name(bare)
        bare.ok("migrate")
        bare.sql("INSERT INTO shop_item (name) SELECT md5(i::text) FROM generate_series(1, 300000) AS i")
        bare.ok("restore-point", directory=str(tmp_path), name="point")
        manifest = json.loads((tmp_path / "point.json").read_text())
        (tmp_path / "point.json").write_text(json.dumps({**manifest, "database_bytes": 250 << 20}))
        said = bare.refused("restore", directory=str(tmp_path), name="point")
        assert f"{folder / 'data'} has " in said["error"]
        assert "for its WAL" in said["error"]
        (tmp_path / "point.json").write_text(json.dumps(manifest))

        def fill_later(over: threading.Event) -> None:
            while cluster.admin("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_restore'") == "0":
                assert not over.is_set()
            fill(folder, over)

        with meanwhile(fill_later):
            said = bare.refused("restore", directory=str(tmp_path), name="point")
        print(f"\n  {said['error']}")
        assert "pg_restore failed" in said["error"]
        (folder / "filling").unlink()
        await_answer(bare, cluster)
        assert bare.sql("SELECT count(*) FROM shop_item") == ["300000"]
        kept = bare.ok("restore", directory=str(tmp_path), name="point")["kept"]
        assert cluster.names(name) == [name, kept]


def await_answer(release: Release, cluster: Cluster, seconds: float = 60) -> None:
    """Without room for its WAL PostgreSQL goes down. It comes back by itself, unless it had no room for that either."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            release.sql("SELECT 1")
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline
            if not (cluster.folder / "data/postmaster.pid").exists():
                cluster.start()
            time.sleep(0.2)
        else:
            return


# --- kill -9 ---


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_power_is_lost_at_any_moment_of_a_restore_or_a_backup(
    release: Release, tmp_path: Path, kills: int, request: pytest.FixtureRequest
) -> None:
    """kill -9 of all of it: the live database is whole, no half backup is one, the next run cleans."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"\n  seed {seed}")
    chance = random.Random(seed)
    backups = tmp_path / "backups"
    release.ok("migrate")
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) SELECT 'x' FROM n"
    release.sql(f"INSERT INTO shop_item (name) {many}")
    arguments: dict[str, Any] = {"directory": str(backups), "keep": {"daily": 7, "weekly": 4, "monthly": 6}}
    whole = timed(lambda: release.ok("backup", **arguments))
    name = next(backups.glob("*.json")).stem
    longest = {"backup": whole, "restore": timed(lambda: release.ok("restore", **arguments, name=name))}
    for _ in range(kills):
        verb = chance.choice(list(longest))
        process = subprocess.Popen(
            release.command(verb, **arguments, **({"name": name} if verb == "restore" else {})),
            cwd=release.root, env=release.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(chance.uniform(0, longest[verb]))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert release.sql("SELECT count(*) FROM shop_item") == ["60000"], seed
        for manifest in backups.glob("*.json"):
            described = json.loads(manifest.read_text())
            data = (backups / described["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == described["sha256"], seed
    time.sleep(1)  # a backup is named after its second
    release.ok("backup", **arguments)
    release.ok("restore", **arguments, name=name)
    assert release.sql("SELECT count(*) FROM shop_item") == ["60000"], seed
    whole_ones = {path.stem for path in backups.glob("*.json")}
    assert {path.name.split(".")[0] for path in backups.iterdir() if path.name != ".sequence"} == whole_ones, seed
    assert not list(backups.glob("*.part")), seed
    left = beside(release, request)
    assert not left, (left, seed)


def beside(release: Release, request: pytest.FixtureRequest) -> list[str]:
    name = database_name(release)
    if "PORT" in release.environment["DATABASE"]:
        return request.getfixturevalue("cluster").names(f"{name}_restore_")
    return [path.name for path in Path(name).parent.glob("*.restore*")]


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
