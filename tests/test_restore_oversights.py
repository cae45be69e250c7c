"""What two at once, a long dump or something that postgres made do to a backup: nothing that nobody hears of."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.application import (
    CANARY,
    NOTE,
    POSTGRES,
    REPOSITORY,
    Cluster,
    Release,
    as_server,
    database_name,
    items,
    postgresql,
    session,
    started,
)


def test_a_drill_meets_a_restore_of_a_file_and_its_copy_goes_live(bare: Release, tmp_path: Path) -> None:
    bare.ok("migrate")
    bare.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    folder = str(tmp_path / "backups")
    bare.ok("restore-point", directory=folder, name="small")
    bare.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000)"
        " INSERT INTO shop_item (name) SELECT 'one of very many things' FROM n"
    )
    bare.ok("restore-point", directory=folder, name="large")
    live = Path(database_name(bare))
    drill = subprocess.Popen(
        bare.command("drill", directory=folder, name="large"), cwd=bare.root, env=bare.environ(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        while not (beside := live.with_name(f"{live.name}.restore")).exists():
            assert drill.poll() is None
            time.sleep(0.001)
        assert beside.stat().st_mode & 0o777 == 0o600
        drill.send_signal(19)  # SIGSTOP: as long as it takes
        assert bare.refused("restore", directory=folder, name="small")["kind"] == "locked"
        assert bare.refused("drill", directory=folder, name="small")["kind"] == "locked"
    finally:
        drill.send_signal(18)
        drill.communicate(timeout=60)
    assert drill.returncode == 0
    assert bare.sql("SELECT count(*) FROM shop_item") == ["500001"]
    bare.ok("restore", directory=folder, name="small")
    assert items(bare) == ["kept"]


def test_a_long_backup_claims_to_hold_what_was_written_while_it_ran(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """And --date would take yesterday's for a moment in which today's was running already."""
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    done: dict[str, Any] = {}
    backup = threading.Thread(
        target=lambda: done.update(on_postgres.ok("restore-point", directory=str(tmp_path), name="point"))
    )
    waiting = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
        " AND application_name = 'fab-releases backup'"
    )
    with session(cluster, name, "BEGIN; LOCK shop_item"):
        backup.start()
        while cluster.admin(waiting) == "0":
            assert backup.is_alive()
            time.sleep(0.05)
        time.sleep(1)
        sold = datetime.now(UTC)
        time.sleep(1)
    backup.join()
    assert datetime.fromisoformat(done["taken_at"]) < sold


def test_a_role_that_may_make_tables_here_cannot_be_given_its_own_back(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """Its right comes last in a dump, after the table that it needs it for."""
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    cluster.admin("CREATE ROLE clerks; GRANT clerks TO app")
    cluster.admin(
        "GRANT CREATE ON SCHEMA public TO clerks; CREATE TABLE bill (); ALTER TABLE bill OWNER TO clerks", name
    )
    asked = "SELECT tableowner FROM pg_tables WHERE tablename = 'bill' UNION ALL SELECT nspacl::text FROM pg_namespace"
    before = cluster.admin(asked, name)
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.ok("restore", directory=str(tmp_path), name="point")
    assert cluster.admin(asked, name) == before


def test_a_limit_for_idle_sessions_ends_a_restore(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    """Two sessions do nothing while it runs: one has its lock, and another restore would remove its copy."""
    on_postgres.ok("migrate")
    on_postgres.environment["DATABASE"] = postgresql(
        cluster, database_name(on_postgres), OPTIONS={"options": "-c idle_session_timeout=50"}
    )
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.ok("drill", directory=str(tmp_path), name="point")


def test_migrations_in_a_schema_of_their_own_are_taken_for_missing(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(on_postgres)
    cluster.admin("CREATE SCHEMA shop AUTHORIZATION app", name)
    on_postgres.environment["DATABASE"] = postgresql(cluster, name, OPTIONS={"options": "-c search_path=shop"})
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point", plan_only=True)["missing"] == []


def test_a_database_that_was_kept_is_older_than_the_release_that_gets_it_back(
    saved: tuple[Release, Path],
) -> None:
    release, backups = saved
    kept = release.ok("restore", directory=str(backups), name="point")["kept"]
    release.migration("0002_note", NOTE)
    release.ok("migrate")
    release.ok("undo-restore", kept=kept)
    assert release.ok("migrate")["applied"] == ["shop.0002_note"]
    assert release.sql("SELECT note FROM shop_item") != []


def test_a_second_database_of_the_application_is_thought_to_be_in_the_backup(bare: Release, tmp_path: Path) -> None:
    bare.ok("migrate")
    default = json.loads(bare.environment["DATABASE"])
    audit, replica = default | {"NAME": str(tmp_path / "audit.sqlite3")}, default | {"HOST": "replica"}
    bare.environment["MORE_DATABASES"] = json.dumps({"audit": audit, "replica": replica, "off": {}})
    said = bare.run("backup", directory=str(tmp_path / "backups"), keep=KEEP).err
    assert "fab-releases: only the database 'default' is in it: audit of DATABASES" in said
    (manifest,) = (tmp_path / "backups").glob("*.json")
    told = json.loads(manifest.read_text())
    assert told["not_in_it"]["databases"] == ["audit"]
    assert told["remarks"] == ["only the database 'default' is in it: audit of DATABASES must be backed up by yourself"]


ROLES = {
    "assumed, and not inherited": ("NOINHERIT", {"assume_role": "app"}),
    "assumed, and inherited": ("INHERIT", {"assume_role": "app"}),
    "an option of the session": ("NOINHERIT", {"options": "-c role=app"}),
    "a setting of the role": ("NOINHERIT", {}),
}


@pytest.mark.parametrize("how", ROLES)
def test_backups_and_restores_take_the_role_that_the_application_takes(
    on_postgres: Release, cluster: Cluster, tmp_path: Path, how: str
) -> None:
    """And end its sessions as who logged in: the role it takes has no right to them."""
    inherit, options = ROLES[how]
    cluster.admin(f"DROP ROLE IF EXISTS web; CREATE ROLE web LOGIN {inherit} PASSWORD '{CANARY}'; GRANT app TO web")
    name = database_name(on_postgres)
    if not options:
        cluster.admin("ALTER ROLE web SET role TO app")
    on_postgres.environment["DATABASE"] = postgresql(cluster, name, user="web", OPTIONS=options)
    on_postgres.ok("migrate")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'shop_item'"
    assert cluster.admin(owner, name) == "app"
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.ok("drill", directory=str(tmp_path), name="point")
    with session(cluster, name, "SET ROLE app; SELECT 1", user="web"), session(cluster, name, "SELECT 1", user="app"):
        on_postgres.ok("restore", directory=str(tmp_path), name="point")
    assert cluster.admin(owner, name) == "app"


def test_backups_and_restores_go_to_the_database_of_the_settings_where_a_service_file_names_another(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(on_postgres)
    services = tmp_path / "services.conf"
    where = f"host=127.0.0.1\nport={cluster.port}\nuser=app\npassword={CANARY}\n"
    services.write_text(f"[shop]\ndbname=postgres\n{where}")
    on_postgres.environment["PGSERVICEFILE"] = str(services)
    on_postgres.environment["DATABASE"] = json.dumps(
        {"ENGINE": "django.db.backends.postgresql", "NAME": name, "OPTIONS": {"service": "shop"}}
    )
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    assert json.loads((tmp_path / "backups/point.json").read_text())["database"] == name
    kept = on_postgres.ok("restore", directory=str(tmp_path / "backups"), name="point")["kept"]
    assert cluster.names(name) == [name, kept]


def test_rows_that_the_role_may_not_see_are_said_before_a_backup_that_would_lack_them(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.sql("ALTER TABLE shop_item ENABLE ROW LEVEL SECURITY; ALTER TABLE shop_item FORCE ROW LEVEL SECURITY;")
    said = on_postgres.refused("restore-point", directory=str(tmp_path), name="point")
    assert "Row-level security hides rows of shop_item from app" in said["error"]
    assert "As postgres: ALTER ROLE app BYPASSRLS;" in said["hint"]
    program = (REPOSITORY / "templates/doctor/application.py").read_text()
    environment = on_postgres.environ(RELEASE_ROOT=str(on_postgres.root))
    checked = subprocess.run(
        [on_postgres.python, "-c", program, "database"],
        cwd=on_postgres.root, env=environment, capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(checked.stdout.splitlines()[-1])["hidden"] == "shop_item"
    cluster.admin("ALTER ROLE app BYPASSRLS")
    try:
        on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
        on_postgres.ok("restore", directory=str(tmp_path), name="point")
    finally:
        cluster.admin("ALTER ROLE app NOBYPASSRLS")


def test_a_database_of_the_same_name_on_another_server_is_said_to_be_in_no_backup(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    other_address = json.loads(postgresql(cluster, name, HOST="localhost"))
    folder = Path(tempfile.mkdtemp(prefix="project-pg-"))
    try:
        with started(folder) as elsewhere:
            elsewhere.admin(f"CREATE DATABASE {name} OWNER app")
            ledger = json.loads(postgresql(elsewhere, name))
            down = {**ledger, "PORT": 1}
            mirror = {"TEST": {"MIRROR": "default"}}
            databases = {"ledger": ledger, "says_it_follows": ledger | mirror, "address": other_address,
                         "down": down, "replica_that_is_down": down | mirror, "off": {}}  # fmt: skip
            on_postgres.environment["MORE_DATABASES"] = json.dumps(databases)
            on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    finally:
        shutil.rmtree(folder)
    told = json.loads((tmp_path / "backups/point.json").read_text())
    assert told["not_in_it"]["databases"] == ["down", "ledger", "says_it_follows"]


def test_a_replica_says_itself_that_it_is_one(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    folder = Path(tempfile.mkdtemp(prefix="project-pg-"))
    try:
        with following(cluster, folder) as replica:
            on_postgres.environment["MORE_DATABASES"] = json.dumps({"replica": json.loads(postgresql(replica, name))})
            on_postgres.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    finally:
        shutil.rmtree(folder)
    assert json.loads((tmp_path / "backups/point.json").read_text())["not_in_it"]["databases"] == []


@contextmanager
def following(cluster: Cluster, folder: Path) -> Iterator[Cluster]:
    shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    copy = [POSTGRES / "pg_basebackup", "-h", cluster.folder, "-p", cluster.port, "-U", "postgres", "-c", "fast"]
    as_server([*copy, "-R", "-D", folder / "data"], folder)
    options = cluster.options.replace(f"-p {cluster.port}", f"-p {port}").replace(
        f"-k {cluster.folder}", f"-k {folder}"
    )
    made = Cluster(port, folder, options)
    made.start()
    try:
        yield made
    finally:
        as_server([POSTGRES / "pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop"], folder)


def test_what_pg_dump_leaves_out_is_said(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    cluster.admin(
        "CREATE SUBSCRIPTION headquarters CONNECTION 'host=x' PUBLICATION p WITH (connect = off, slot_name = NONE);",
        name,
    )
    cluster.admin(
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
        "CREATE FOREIGN TABLE lines (a text) SERVER files OPTIONS (filename '/etc/hosts');"
        "ALTER FOREIGN TABLE lines OWNER TO app",
        name,
    )
    try:
        answer = on_postgres.run("backup", directory=str(tmp_path / "backups"), keep=KEEP)
    finally:
        cluster.admin("DROP SUBSCRIPTION headquarters", name)
    assert answer.code == 0, answer.said
    (manifest,) = (tmp_path / "backups").glob("*.json")
    told = json.loads(manifest.read_text())
    assert told["not_in_it"] == {"databases": [], "foreign_tables": ["lines"]}
    assert "pg_dump: subscriptions not dumped because current user is not a superuser" in told["remarks"]
    for remark in told["remarks"]:
        assert f"fab-releases: {remark}" in answer.err


# --- the order of backups ---

KEEP = {"daily": 1, "weekly": 0, "monthly": 0}


def test_no_number_of_a_backup_is_given_twice(bare: Release, tmp_path: Path) -> None:
    """Also of those that are gone, or lie beside."""
    bare.ok("migrate")
    folder, beside = tmp_path / "backups/database", tmp_path / "backups/restore-points"
    for name in ("one", "two"):
        bare.ok("restore-point", directory=str(beside), name=name)
    for path in beside.glob("two.*"):
        path.unlink()
    bare.ok("backup", directory=str(folder), keep=KEEP)
    (manifest,) = folder.glob("*.json")
    assert json.loads(manifest.read_text())["sequence"] == 3
    bare.ok("restore-point", directory=str(beside), name="four")
    assert json.loads((beside / "four.json").read_text())["sequence"] == 4


def test_the_newest_is_the_one_taken_last_whatever_a_clock_said(bare: Release, tmp_path: Path) -> None:
    bare.ok("migrate")
    folder = tmp_path / "backups"
    bare.ok("backup", directory=str(folder), keep=KEEP)
    (first,) = folder.glob("*.json")
    for path in folder.glob(f"{first.stem}.*"):  # the clock was years ahead
        path.rename(path.with_name(path.name.replace(first.stem, "20990101-000000")))
    ahead = folder / "20990101-000000.json"
    manifest = json.loads(ahead.read_text())
    ahead.write_text(json.dumps({**manifest, "name": ahead.stem, "taken_at": "2099-01-01T00:00:00+00:00"}))
    bare.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    taken = bare.ok("backup", directory=str(folder), keep=KEEP)
    assert any("it was taken after 20990101-000000, though its date is earlier" in one for one in taken["remarks"])
    assert ahead.exists()
    assert bare.ok("drill", directory=str(folder))["name"] == taken["name"]
    manifest = json.loads((folder / f"{taken['name']}.json").read_text())
    assert manifest["sequence"] == 2
