"""It puts databases back: nothing is touched before the replacement is whole, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.application import CANARY, POSTGRES, Cluster, Release, database_name, items, postgresql, session, sqlite


def test_a_restore_point_says_what_is_in_it_and_only_we_can_read_it(saved: tuple[Release, Path]) -> None:
    release, backups = saved
    manifest = json.loads((backups / "point.json").read_text())
    data = backups / manifest["file"]
    assert manifest["release"] == release.root.name
    assert "shop.0001_initial" in manifest["applied"]
    assert manifest["bytes"] == data.stat().st_size
    assert [rows for table, rows in manifest["rows"].items() if table.endswith("shop_item")] == [1]
    assert {path.stat().st_mode & 0o777 for path in backups.iterdir()} == {0o600}
    assert sorted(path.name for path in backups.iterdir()) == sorted([".sequence", "point.json", data.name])
    assert "already" in release.refused("restore-point", directory=str(backups), name="point")["error"]


def test_a_restore_brings_back_the_rows_and_can_be_undone(saved: tuple[Release, Path]) -> None:
    release, backups = saved
    release.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    preview = release.ok("restore", directory=str(backups), name="point", plan_only=True)
    assert list(preview["newer_rows"].values()) == [1]
    assert items(release) == ["kept", "newer"]
    restored = release.ok("restore", directory=str(backups), name="point")
    assert items(release) == ["kept"]
    undone = release.ok("undo-restore", kept=restored["kept"])
    assert items(release) == ["kept", "newer"]
    release.ok("undo-restore", kept=undone["kept"])
    assert items(release) == ["kept"]
    assert "There is no" in release.refused("undo-restore", kept="nothing_of_this_name")["error"]


def test_every_database_that_restores_kept_is_listed_swapped_back_and_dropped_by_name(
    saved: tuple[Release, Path],
) -> None:
    """Restoring twice does not hide the original."""
    release, backups = saved
    release.sql("INSERT INTO shop_item (name) VALUES ('original')")
    first = release.ok("restore", directory=str(backups), name="point")["kept"]
    release.sql("INSERT INTO shop_item (name) VALUES ('between')")
    second = release.ok("restore", directory=str(backups), name="point")["kept"]
    scratch = release.ok("drill", directory=str(backups), name="point", keep=True)["scratch"]
    listed = release.ok("kept")["databases"]
    assert [(one["name"], one["is_way_back"]) for one in listed] == [(scratch, False), (second, True), (first, True)]
    assert all(one["bytes"] > 0 for one in listed)
    undone = release.ok("undo-restore", kept=first)["kept"]
    assert items(release) == ["kept", "original"]
    for name in (scratch, second, undone):
        release.ok("drop-kept", name=name)
    assert release.ok("kept")["databases"] == []
    assert items(release) == ["kept", "original"]
    for name in (second, database_name(release), Path(database_name(release)).name, "../shared/db.sqlite3"):
        assert "There is no database" in release.refused("drop-kept", name=name)["error"]


def test_a_damaged_restore_point_is_refused_before_production_is_touched(saved: tuple[Release, Path]) -> None:
    release, backups = saved
    release.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    manifest = backups / "point.json"
    data = next(path for path in backups.iterdir() if path != manifest)
    content, described = data.read_bytes(), manifest.read_text()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged, broken in ((content[: len(content) * 99 // 100], described), (flipped, described),
                            (content, described[:40]), (content, "")):  # fmt: skip
        data.write_bytes(damaged)
        manifest.write_text(broken)
        said = release.refused("restore", directory=str(backups), name="point")
        assert "SHA-256 differ" in said["error"] or "No restore point" in said["error"]
    assert items(release) == ["kept", "newer"]


def test_a_damaged_dump_with_a_manifest_that_agrees_is_found_by_reading_it(saved: tuple[Release, Path]) -> None:
    release, backups = saved
    manifest = backups / "point.json"
    described = json.loads(manifest.read_text())
    data = backups / described["file"]
    cut = data.read_bytes()[: described["bytes"] * 9 // 10]
    data.write_bytes(cut)
    manifest.write_text(json.dumps({**described, "bytes": len(cut), "sha256": hashlib.sha256(cut).hexdigest()}))
    release.refused("restore", directory=str(backups), name="point")
    assert items(release) == ["kept"]


def test_rows_that_differ_from_the_manifest_stop_the_swap(saved: tuple[Release, Path], cluster: Cluster) -> None:
    release, backups = saved
    manifest = json.loads((backups / "point.json").read_text())
    manifest["rows"] = {table: rows + 1 for table, rows in manifest["rows"].items()}
    (backups / "point.json").write_text(json.dumps(manifest))
    release.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    assert "not those of the manifest" in release.refused("restore", directory=str(backups), name="point")["error"]
    assert items(release) == ["kept", "newer"]
    if manifest["engine"] == "postgresql":
        assert cluster.names(database_name(release)) == [database_name(release)]
    else:
        assert [path.name for path in Path(database_name(release)).parent.iterdir()] == ["db.sqlite3"]


def test_a_failed_dump_leaves_nothing_that_looks_like_a_backup(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    cluster.admin("CREATE TABLE private (id int)", database_name(on_postgres))
    said = on_postgres.refused("restore-point", directory=str(tmp_path / "backups"), name="point")
    assert 'GRANT pg_read_all_data TO "app"' in said["hint"]
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".sequence"]


def test_a_full_disk_is_noticed_before_the_dump(on_postgres: Release) -> None:
    folder = Path(tempfile.mkdtemp())
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("a small file system needs mount")
    try:
        said = on_postgres.refused("restore-point", directory=str(folder), name="point")
        assert "bytes free" in said["error"]
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_sqlite_in_wal_mode_with_a_reader_inside_is_not_torn(bare: Release, tmp_path: Path) -> None:
    bare.ok("migrate")
    bare.sql("PRAGMA journal_mode = WAL")
    bare.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    backups = str(tmp_path / "backups")
    bare.ok("restore-point", directory=backups, name="point")
    bare.sql("INSERT INTO shop_item (name) VALUES ('newer')")
    restored = bare.ok("restore", directory=backups, name="point")
    assert bare.sql("PRAGMA journal_mode") == ["wal"]
    assert items(bare) == ["kept"]
    bare.environment["DATABASE"] = sqlite(tmp_path / "shared" / restored["kept"])
    assert items(bare) == ["kept", "newer"]


def test_a_role_that_may_not_rename_is_told_the_grants_before_anything_is_touched(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.admin(f"CREATE ROLE plain LOGIN PASSWORD '{CANARY}'; GRANT pg_read_all_data TO plain")
    on_postgres.ok("migrate")
    name = database_name(on_postgres)
    on_postgres.environment["DATABASE"] = postgresql(cluster, name, user="plain")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    said = on_postgres.refused("restore", directory=str(tmp_path), name="point")
    assert said["grants"] == ['ALTER ROLE "plain" CREATEDB;', 'GRANT app TO "plain";']
    assert cluster.names(name) == [name]
    cluster.admin(" ".join(said["grants"]))
    on_postgres.ok("restore", directory=str(tmp_path), name="point")
    owners = cluster.admin("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", name)
    assert owners == "app"


def test_a_superusers_session_is_named_instead_of_waited_for(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    with session(cluster, database_name(on_postgres), "SELECT 1"):
        assert "of postgres (psql)" in on_postgres.refused("restore", directory=str(tmp_path), name="point")["error"]


def test_what_belongs_to_the_database_itself_survives_a_restore(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    name = database_name(on_postgres)
    cluster.admin(
        f"COMMENT ON DATABASE {name} IS 'it''s ours'; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;"
        f'ALTER DATABASE {name} SET search_path TO public, "My Schema"; ALTER DATABASE {name} CONNECTION LIMIT 40;'
        f"ALTER ROLE app IN DATABASE {name} SET statement_timeout TO '7s'"
    )
    asked = f"""
        SELECT datconnlimit, shobj_description(d.oid, 'pg_database'), datcollate, datdba::regrole,
            (SELECT array_agg(entry::text ORDER BY entry::text) FROM unnest(datacl) entry),
            (SELECT array_agg(s.setconfig::text ORDER BY s.setconfig::text) FROM pg_db_role_setting s
                WHERE s.setdatabase = d.oid)
        FROM pg_database d WHERE datname = '{name}'"""
    before = cluster.admin(asked)
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point")["not_carried"] == []
    assert cluster.admin(asked) == before


def test_a_database_that_was_dropped_is_made_anew_with_what_was_set_for_it(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    name = database_name(on_postgres)
    cluster.admin("CREATE ROLE visitor")
    cluster.admin(
        f"COMMENT ON DATABASE {name} IS 'ours; all of it'; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;"
        f"GRANT CONNECT ON DATABASE {name} TO visitor; ALTER DATABASE {name} CONNECTION LIMIT 40;"
        f'ALTER DATABASE {name} SET search_path TO public, "My Schema";'
        f"ALTER ROLE app IN DATABASE {name} SET statement_timeout TO '7s';"
        f"ALTER DATABASE {name} SET log_min_duration_statement TO '250ms'"
    )
    asked = f"""
        SELECT datconnlimit, shobj_description(d.oid, 'pg_database'), datcollate, datdba::regrole, encoding,
            (SELECT array_agg(entry::text ORDER BY entry::text) FROM unnest(datacl) entry),
            (SELECT array_agg(setting ORDER BY setting) FROM pg_db_role_setting s, unnest(setconfig) setting
                WHERE s.setdatabase = d.oid AND setting NOT LIKE 'log%')
        FROM pg_database d WHERE datname = '{name}'"""
    before = cluster.admin(asked)
    taken = on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    cluster.admin(f"DROP DATABASE {name}")
    assert "fab restore-db --date latest" in on_postgres.refused("drill", directory=str(tmp_path))["hint"]
    plan = on_postgres.ok("restore", directory=str(tmp_path), name="point", plan_only=True)
    assert (plan["gone"], plan["missing"], cluster.names(name)) == (True, [], [])
    done = on_postgres.ok("restore", directory=str(tmp_path), name="point")
    assert (done["kept"], done["left_out"]) == ("", taken["left_out"])
    assert any("log_min_duration_statement" in one for one in done["not_carried"])
    assert any("log_min_duration_statement" in one for one in done["remarks"])
    assert cluster.admin(asked) == before
    assert items(on_postgres) == ["kept"]
    assert cluster.names(name) == [name]


def test_a_dropped_database_that_we_may_not_make_is_answered_with_the_statement(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    name = database_name(on_postgres)
    cluster.admin(f"DROP DATABASE {name}")
    cluster.admin("ALTER ROLE app NOCREATEDB")
    try:
        said = on_postgres.refused("restore", directory=str(tmp_path), name="point")
    finally:
        cluster.admin("ALTER ROLE app CREATEDB")
    assert f"CREATE DATABASE {name} WITH TEMPLATE" in said["hint"]
    assert f'ALTER DATABASE "{name}" OWNER TO "app";' in said["hint"]


def test_clients_that_keep_coming_back_do_not_stop_the_swap(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    on_postgres.ok("migrate")
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    name = database_name(on_postgres)
    stop = threading.Event()
    successes: list[float] = []

    def client() -> None:
        words = [POSTGRES / "psql", "-XAtq", "-U", "app", "-h", cluster.folder, "-p", str(cluster.port), "-d", name]
        while not stop.is_set():
            done = subprocess.run([*words, "-c", "SELECT pg_sleep(0.05)"], capture_output=True, check=False)
            if done.returncode == 0:
                successes.append(time.monotonic())

    clients = [threading.Thread(target=client) for _ in range(6)]
    for thread in clients:
        thread.start()
    try:
        kept = on_postgres.ok("restore", directory=str(tmp_path), name="point")["kept"]
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert cluster.names(name) == [name, kept]
    assert successes


SEEN = {
    "restoring": "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_restore'",
    "swapping": "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE % RENAME%'",
}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", [pytest.param("restoring", marks=pytest.mark.nightly), "swapping"])
def test_a_restore_that_is_killed_leaves_the_live_database_open_and_whole(
    on_postgres: Release, cluster: Cluster, tmp_path: Path, sent: signal.Signals, moment: str
) -> None:
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) SELECT 'x' FROM generate_series(1, 400000)")  # long enough to be seen
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    name = database_name(on_postgres)
    words = on_postgres.command("restore", directory=str(tmp_path), name="point")
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=on_postgres.root, env=on_postgres.environ(), stdout=quiet, stderr=quiet)
    wait_until_seen(cluster, process, "restoring")
    # somebody changes the database and takes his time: the rename stands and waits
    comment = f"BEGIN; COMMENT ON DATABASE {name} IS 'held'"
    inside = session(cluster, "postgres", comment) if moment == "swapping" else nullcontext()
    with inside:
        wait_until_seen(cluster, process, moment)
        process.send_signal(sent)
        process.wait(timeout=60)
    assert on_postgres.sql("SELECT count(*) FROM shop_item") == ["400000"]
    if sent == signal.SIGTERM:
        assert cluster.names(name) == [name]
    kept = on_postgres.ok("restore", directory=str(tmp_path), name="point")["kept"]
    assert cluster.names(name) == [name, kept]
    assert on_postgres.sql("SELECT count(*) FROM shop_item") == ["400000"]


def wait_until_seen(cluster: Cluster, process: subprocess.Popen[bytes], moment: str) -> None:
    while cluster.admin(SEEN[moment]) == "0":
        assert process.poll() is None, f"ended before it was seen {moment}"


def test_no_password_is_on_any_command_line_or_in_any_output(on_postgres: Release, tmp_path: Path) -> None:
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) SELECT repeat('x', 40) FROM generate_series(1, 50000)")
    seen: set[str] = set()
    for verb in ("restore-point", "restore"):
        words = on_postgres.command(verb, directory=str(tmp_path / "backups"), name="point")
        process = subprocess.Popen(words, cwd=on_postgres.root, env=on_postgres.environ(), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        while process.poll() is None:
            seen.update(command_lines())
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert CANARY not in out + err
    everything = "\n".join(seen)
    assert "pg_dump" in everything
    assert "pg_restore" in everything
    assert CANARY not in everything
    assert all(CANARY.encode() not in path.read_bytes() for path in (tmp_path / "backups").iterdir())


def command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield process.read_bytes().decode(errors="replace")
        except OSError:
            continue
