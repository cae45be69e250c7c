"""project.py against real Django, SQLite and PostgreSQL: what would hurt must be said before it happens."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.application import (
    BROKEN,
    CANARY,
    DROP_NOTE,
    FIRST,
    HIDDEN_ONE_WAY,
    KEY,
    LONGER,
    NOTE,
    ONE_WAY,
    POSTGRES,
    PRICE,
    SETTINGS,
    SHORTER,
    Answer,
    Cluster,
    Release,
    database_name,
    postgresql,
    session,
    sqlite,
)

ROUTERS = """
    class Notes:
        def allow_migrate(self, db, app_label, **hints):
            return db == ("notes" if app_label == "notes" else "default")
"""
NOTES = """[migrations.CreateModel("Note", [("id", models.BigAutoField(primary_key=True))])]"""


@pytest.fixture
def two(release: Release, cluster: Cluster, tmp_path: Path) -> Release:
    """A second database, which a router names for the models of the application `notes`, and a third of nobody's."""
    release.write("pos/routers.py", ROUTERS)
    release.write("notes/__init__.py", "")
    release.write("notes/migrations/__init__.py", "")
    release.write("notes/models.py", "from django.db import models\nclass Note(models.Model):\n    pass\n")
    release.write(
        "notes/migrations/0001_initial.py",
        "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
        f"    dependencies = []\n    operations = {NOTES}\n",
    )
    release.write("pos/settings.py", SETTINGS.replace('"shop"]', '"shop", "notes"]'))
    on_server = "PORT" in release.environment["DATABASE"]
    made = [
        postgresql(cluster, cluster.new_database()) if on_server else sqlite(tmp_path / "shared" / name)
        for name in ("notes", "legacy")
    ]
    release.environment.update(
        ROUTERS="pos.routers.Notes", MORE_DATABASES=f'{{"notes": {made[0]}, "legacy": {made[1]}}}'
    )
    return release


def tables(release: Release, alias: str) -> set[str]:
    database = json.loads(release.environment["MORE_DATABASES"])[alias]
    listed = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if "PORT" in database:
        listed = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    other = Release(release.root, release.python, {**release.environment, "DATABASE": json.dumps(database)})
    return set(other.sql(listed))


# --- more than one database ---


def test_every_database_that_a_router_names_is_migrated_and_taken_back(two: Release) -> None:
    answer = two.run("inspect")
    assert "not migrated, for no router names a model of this application for it: legacy" in answer.err
    pending = {f"{one['app']}.{one['name']}" for one in answer.said["migrations"]}
    assert {"shop.0001_initial", "notes:notes.0001_initial"} <= pending
    before = answer.said["applied"]
    done = two.run("migrate", restore_point="yes")
    assert "notes:notes.0001_initial" in done.said["applied"]
    assert "the restore point holds the default database; notes, which is migrated too, has none" in done.err
    assert "notes_note" in tables(two, "notes")
    assert tables(two, "legacy") == set()
    assert two.ok("migrate") == {"applied": []}
    assert two.ok("inspect")["migrations"] == []
    assert "notes:notes.0001_initial" in two.ok("reverse", to=before)["reversed"]
    assert "notes_note" not in tables(two, "notes")


def test_every_database_behind_the_pool_is_reached_past_it(two: Release) -> None:
    every = {"default": json.loads(two.environment["DATABASE"]), **json.loads(two.environment["MORE_DATABASES"])}
    two.environment["DATABASE_DIRECT_PORT"] = str(every["default"].get("PORT", ""))
    for database in every.values():
        database.update({"PORT": 1} if "PORT" in database else {})  # where nothing listens
    two.environment.update(DATABASE=json.dumps(every.pop("default")), MORE_DATABASES=json.dumps(every))
    assert two.ok("inspect")["applied"] == ["notes:"]


def test_a_release_that_does_not_know_a_database_leaves_it_as_it_is(release: Release, two: Release) -> None:
    older = [name for name in two.ok("inspect")["known"] if not name.startswith("notes")]
    two.ok("migrate")
    assert "notes:notes.0001_initial" not in two.ok("reverse", to=older)["reversed"]
    assert "notes_note" in tables(two, "notes")


def test_a_second_database_that_does_not_answer_is_named_before_anything_begins(two: Release) -> None:
    two.environment["MORE_DATABASES"] = f'{{"notes": {sqlite("/nowhere/at/all")}}}'
    assert "The database 'notes' does not let us in" in two.refused("inspect")["error"]
    assert two.refused("migrate")["kind"] == "database"
    two.environment.update(MORE_DATABASES="{}", ROUTERS="")
    assert two.ok("inspect")["applied"] == []


# --- inspect ---


def test_a_good_release_is_not_refused_and_says_what_it_is(release: Release) -> None:
    said = release.ok("inspect", wsgi="pos.wsgi:application", deploy_check=True, static=True)
    assert said["settings_module"] == "pos.settings"  # found in manage.py
    assert said["debug"] is False
    assert said["secret_key_suspicious"] is False
    assert said["static"]["count"] == 1
    assert said["checks"]["errors"] == 0
    assert said["checks"]["warnings"] > 0
    assert "shop.0001_initial" in said["known"]
    assert said["applied"] == said["ahead"] == []
    assert [m["name"] for m in said["migrations"] if m["app"] == "shop"] == ["0001_initial"]


def test_production_never_starts_with_debug_an_insecure_key_or_a_throwaway_database(bare: Release) -> None:
    bare.environment.update(DEBUG="1", DATABASE=sqlite("db.sqlite3"))
    del bare.environment["SECRET_KEY"]
    said = bare.refused("inspect", settings={"expect_engine": "postgresql"})
    sentences = "\n".join(found["error"] for found in said["errors"])
    for word in (
        "DEBUG is on",
        "SECRET_KEY is no secret",
        "is sqlite, not postgresql",
        "would not outlive this release",
    ):
        assert word in sentences
    assert said["databases"]["default"]["inside_release"] is True
    allowed = dict.fromkeys(("allow_debug", "allow_suspicious_key", "allow_sqlite_in_release"), True)
    assert bare.ok("inspect", settings=allowed)["debug"] is True


def test_a_key_written_in_the_settings_file_is_known_to_all_who_read_the_code(bare: Release) -> None:
    bare.write("pos/settings.py", SETTINGS.replace("django-insecure-fallback", KEY))
    del bare.environment["SECRET_KEY"]
    assert bare.refused("inspect")["secret_key_suspicious"] is True


def test_a_link_out_of_the_release_does_not_count_as_inside(bare: Release, tmp_path: Path) -> None:
    (bare.root / "db.sqlite3").symlink_to(tmp_path / "shared" / "db.sqlite3")
    bare.environment["DATABASE"] = sqlite("db.sqlite3")
    assert bare.ok("inspect")["databases"]["default"]["inside_release"] is False


def test_a_database_that_is_down_is_named_as_such_without_the_password(bare: Release) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused at once, and nobody else can take it
        bare.environment["DATABASE"] = postgresql(Cluster(nobody.getsockname()[1], Path()), "pos")
        said = bare.refused("inspect")
    assert (said["kind"], said["database"]) == ("database", "down")
    assert "OperationalError" in said["reason"]
    assert "shop.0001_initial" in said["known"]


def test_a_wrong_password_is_not_repeated_to_anybody(bare: Release, cluster: Cluster) -> None:
    bare.environment["DATABASE"] = postgresql(cluster, "postgres", PASSWORD=CANARY + "!")
    said = bare.refused("migrate")
    assert said["kind"] == "database"
    assert "password authentication failed" in said["error"]


def test_an_import_error_is_shown_with_its_file_and_line(bare: Release) -> None:
    bare.write("pos/wsgi.py", "x = 1\nimport nowhere_to_be_found\n")
    answer = bare.run("inspect", wsgi="pos.wsgi:application")
    assert answer.said["error"] == "ModuleNotFoundError: No module named 'nowhere_to_be_found' (pos/wsgi.py:2)"
    assert "pos/wsgi.py:2" in answer.err


def test_settings_that_leak_a_secret_in_an_exception_or_exit_are_still_one_clean_answer(bare: Release) -> None:
    bare.environment["DATABASE_URL"] = f"postgres://app:{CANARY}@db/pos"
    bare.write(
        "pos/settings.py", "import os\nraise ValueError(os.environ['DATABASE_URL'] + os.environ['SECRET_KEY'])\n"
    )
    assert bare.refused("inspect")["error"].startswith("ValueError: postgres://app:[secret]@db/pos[secret]")
    bare.write("pos/settings.py", "import sys\nsys.exit(0)\n")
    assert bare.refused("inspect")["error"].startswith("SystemExit")


def test_threads_the_application_leaves_running_do_not_hang_the_deploy(bare: Release) -> None:
    bare.write("shop/__init__.py", "import threading, time\nthreading.Thread(target=time.sleep, args=(300,)).start()\n")
    assert bare.ok("inspect")["debug"] is False


def test_an_application_module_is_not_hidden_by_one_of_ours(bare: Release) -> None:
    bare.write("project.py", "mine = True")
    bare.write("pos/wsgi.py", "import project\nassert project.mine\napplication = print\n")
    bare.ok("inspect", wsgi="pos.wsgi:application")


INDEX = """[AddIndexConcurrently("item", models.Index(fields=["name"], name="item_name"))]"""
RAW = """[migrations.RunSQL("CREATE INDEX CONCURRENTLY IF NOT EXISTS item_name ON shop_item (name)", "")]"""
READING = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM django_content_type"


def concurrent(release: Release, operations: str) -> None:
    release.ok("migrate")
    release.migration("0002_index", operations, atomic=False)
    path = release.root / "shop/migrations/0002_index.py"
    path.write_text("from django.contrib.postgres.operations import AddIndexConcurrently\n" + path.read_text())


def index(release: Release) -> list[str]:
    return release.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('item_name')")


@pytest.mark.parametrize("operations", [INDEX, RAW], ids=["django", "sql"])
def test_an_index_that_is_made_concurrently_waits_longer_than_a_lock_may(
    on_postgres: Release, cluster: Cluster, operations: str
) -> None:
    """It holds up nobody meanwhile."""
    concurrent(on_postgres, operations)
    with session(cluster, database_name(on_postgres), READING) as reader:
        threading.Timer(4, reader.kill).start()
        assert on_postgres.ok("migrate", lock_timeout_ms=500)["applied"] == ["shop.0002_index"]
    assert index(on_postgres) == ["t"]


@pytest.mark.parametrize("operations", [INDEX, RAW], ids=["django", "sql"])
def test_an_index_that_could_not_be_finished_is_not_in_the_way_of_the_next_deploy(
    on_postgres: Release, cluster: Cluster, operations: str
) -> None:
    concurrent(on_postgres, operations)
    with session(cluster, database_name(on_postgres), READING):
        said = on_postgres.refused("migrate", statement_timeout_ms=1500)
    assert (said["failed"], said["atomic"]) == ("shop.0002_index", True)
    assert "taken back" in said["hint"]
    assert index(on_postgres) == []
    assert on_postgres.ok("migrate")["applied"] == ["shop.0002_index"]
    assert index(on_postgres) == ["t"]


def test_an_index_that_cannot_be_taken_back_is_named_and_made_anew_by_the_next_deploy(
    on_postgres: Release, cluster: Cluster
) -> None:
    concurrent(on_postgres, INDEX)
    with session(cluster, database_name(on_postgres), READING.replace("django_content_type", "shop_item")):
        said = on_postgres.refused("migrate", statement_timeout_ms=1500)
    assert said["atomic"] is False
    assert "DROP INDEX CONCURRENTLY item_name;" in said["hint"]
    assert index(on_postgres) == ["f"]
    answer = on_postgres.run("migrate")
    assert answer.said["applied"] == ["shop.0002_index"]
    assert "the index item_name, which an earlier attempt left unfinished, is dropped" in answer.err
    assert index(on_postgres) == ["t"]


def test_good_indexes_of_a_migration_that_failed_are_taken_back_and_others_are_left(on_postgres: Release) -> None:
    on_postgres.ok("migrate")
    on_postgres.sql("CREATE INDEX mine ON shop_item (name)")
    concurrent(on_postgres, INDEX[:-1] + ', migrations.RunSQL("CREATE INDEX CONCURRENTLY b ON nowhere (x)")]')
    said = on_postgres.refused("migrate")
    assert said["atomic"] is True
    assert on_postgres.sql("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'shop_item'::regclass") == [
        "shop_item_pkey",
        "mine",
    ]


def test_what_a_migration_would_break_is_known_before_it_runs(release: Release) -> None:
    release.migration("0002_note", NOTE)
    release.ok("migrate")
    for name, operations in {"0003_price": PRICE, "0004_drop": DROP_NOTE, "0005_short": SHORTER, "0006_long": LONGER,
                             "0007_one_way": ONE_WAY, "0008_hidden": HIDDEN_ONE_WAY}.items():  # fmt: skip
        release.migration(name, operations, atomic=name != "0006_long")
    found = {m["name"]: m for m in release.ok("inspect")["migrations"]}
    flags = ("destructive", "additive_not_null", "reversible", "atomic")
    assert {name: [facts[flag] for flag in flags] for name, facts in found.items()} == {
        "0003_price": [False, True, True, True],
        "0004_drop": [True, False, True, True],
        "0005_short": [True, False, True, True],
        "0006_long": [False, False, True, False],
        "0007_one_way": [True, False, False, True],
        "0008_hidden": [True, False, False, True],
    }
    assert found["0003_price"]["operations"] == ["Add field price to item"]


def test_the_column_flagged_as_additive_really_breaks_older_code(release: Release) -> None:
    release.migration("0002_price", PRICE)
    release.ok("migrate")
    with pytest.raises((subprocess.CalledProcessError, sqlite3.IntegrityError)):
        release.sql("INSERT INTO shop_item (name) VALUES ('older code')")


def test_older_code_under_a_newer_schema_says_what_is_ahead(release: Release) -> None:
    release.migration("0002_note", NOTE)
    release.ok("migrate")
    (release.root / "shop/migrations/0002_note.py").unlink()
    assert release.ok("inspect")["ahead"] == ["shop.0002_note"]


def test_an_extension_this_role_may_not_create_stops_the_deploy_before_the_first_migration(
    on_postgres: Release,
) -> None:
    on_postgres.migration("0002_extension", "[migrations.RunSQL('create extension if not exists adminpack', '')]")
    said = on_postgres.refused("inspect")
    assert "extension adminpack" in said["error"]
    assert 'CREATE EXTENSION "adminpack"' in said["hint"]
    assert said["applied"] == []


# --- collectstatic ---


def test_static_files_are_never_collected_into_the_live_release(bare: Release, tmp_path: Path) -> None:
    live = tmp_path / "releases" / "older"
    (live / "static").mkdir(parents=True)
    (tmp_path / "current").symlink_to(live)
    bare.environment["STATIC_ROOT"] = str(tmp_path / "current" / "static")
    assert "outside this release" in bare.refused("collectstatic")["error"]
    assert list((live / "static").iterdir()) == []
    del bare.environment["STATIC_ROOT"]
    assert bare.ok("collectstatic") == {"static_root": str(bare.root / "collected"), "count": 1}


# --- migrate ---


def test_migrating_says_what_it_applied_and_nothing_the_second_time(release: Release) -> None:
    release.migration("0002_note", NOTE)
    assert [name for name in release.ok("migrate")["applied"] if "shop" in name] == [
        "shop.0001_initial",
        "shop.0002_note",
    ]
    assert release.ok("migrate") == {"applied": []}


def test_a_migration_that_fails_half_way_says_what_stayed_applied(release: Release) -> None:
    release.ok("migrate")
    release.migration("0002_note", NOTE)
    release.migration("0003_broken", BROKEN)
    release.migration("0004_never", PRICE)
    said = release.refused("migrate")
    assert (said["applied"], said["failed"], said["atomic"]) == (["shop.0002_note"], "shop.0003_broken", True)
    assert "rolled back" in said["hint"]
    assert release.refused("migrate")["applied"] == []
    release.migrations[2:] = []
    (release.root / "shop/migrations/0004_never.py").unlink()
    release.migration("0003_broken", PRICE)  # corrected: nothing of the failed one is in the way
    assert release.ok("migrate")["applied"] == ["shop.0003_broken"]


def test_a_failed_migration_that_is_not_atomic_is_not_called_rolled_back(release: Release) -> None:
    release.ok("migrate")
    release.migration("0002_broken", BROKEN, atomic=False)
    said = release.refused("migrate")
    assert (said["failed"], said["atomic"]) == ("shop.0002_broken", False)
    assert "what it did before failing stays" in said["hint"]
    assert release.sql("SELECT half FROM shop_item") == []  # the column is there


def test_a_host_that_does_not_migrate_waits_for_the_one_that_does(bare: Release) -> None:
    assert "shop.0001_initial" in bare.refused("migrate", primary=False)["pending"]
    bare.ok("migrate")
    assert bare.ok("migrate", primary=False) == {"applied": []}


def test_a_long_transaction_does_not_make_the_migration_block_everybody(on_postgres: Release, cluster: Cluster) -> None:
    on_postgres.ok("migrate")
    on_postgres.migration("0002_note", NOTE)
    words = "SET application_name = 'report'; BEGIN; LOCK TABLE shop_item; SELECT 'canary'"
    behind = "SET application_name = 'in-the-queue'; BEGIN; LOCK TABLE shop_item"
    name = database_name(on_postgres)
    with session(cluster, name, words), queued(cluster, name, behind):
        answer = on_postgres.run("migrate", lock_timeout_ms=2000)
    said = answer.said
    assert said["failed"] == "shop.0002_note"
    held = re.search(
        r"waited for session (\d+) of postgres \(report(, in a transaction since [-0-9: +]+)?\)$", said["error"]
    )
    assert held, said["error"]
    assert said["hint"] == f"Deploy again when it has ended, or end it: SELECT pg_terminate_backend({held[1]});"
    assert "canary" not in answer.err


@contextmanager
def queued(cluster: Cluster, database: str, statement: str) -> Iterator[None]:
    """Somebody who waits for a lock himself: nothing is gained by ending him."""
    words = ["-U", "postgres", "-h", cluster.folder, "-p", str(cluster.port), "-d", database, "-c", statement]
    with subprocess.Popen([POSTGRES / "psql", "-Xq", *words]) as process:
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'in-the-queue' AND wait_event_type = 'Lock'"
        )
        while cluster.admin(waits) != "1":
            assert process.poll() is None
        try:
            yield
        finally:
            process.kill()


def test_a_migration_is_given_up_because_of_the_nightly_backup(on_postgres: Release, cluster: Cluster) -> None:
    """It is waited for before the restore point, and named where it takes too long."""
    on_postgres.ok("migrate")
    on_postgres.migration("0002_note", NOTE)
    backup = "SET application_name = 'fab-releases backup'; BEGIN; LOCK TABLE shop_item IN ACCESS SHARE MODE"
    with session(cluster, database_name(on_postgres), backup) as process:
        answer = on_postgres.run("migrate", lock_timeout_ms=2000, patience=1)
        assert "(fab-releases backup" in answer.said["error"]
        assert "fab logs --service backup" in answer.said["hint"]
        assert "pg_terminate" not in answer.said["hint"]
        assert re.search(r"(?m)^fab-releases: a backup runs since .+: waiting for its end, 1 s at most$", answer.err)
        assert "fab-releases: the backup still runs" in answer.err
        threading.Timer(2, process.kill).start()
        assert on_postgres.ok("migrate", lock_timeout_ms=200, patience=60)["applied"] == ["shop.0002_note"]


def test_a_backup_does_not_say_that_it_is_one(on_postgres: Release, cluster: Cluster, tmp_path: Path) -> None:
    """Its pg_dump is held up, so that somebody can look."""
    on_postgres.ok("migrate")
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'fab-releases backup%'"
    taken: list[Answer] = []
    on_postgres.sql("CREATE SEQUENCE held")
    with session(cluster, database_name(on_postgres), "BEGIN; DROP SEQUENCE held"):
        place = {"directory": str(tmp_path / "backups"), "name": "point"}
        backup = threading.Thread(target=lambda: taken.append(on_postgres.run("restore-point", **place)))
        backup.start()
        until = time.monotonic() + 60
        while (seen := cluster.admin(asked)) != "2" and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
    backup.join()
    assert (seen, taken[0].said["name"]) == ("2", "point")
    assert "fab-releases: pg_dump waits for session " in taken[0].err
    assert " of postgres (psql" in taken[0].err


def test_two_hosts_never_migrate_at_once(on_postgres: Release, cluster: Cluster) -> None:
    with session(cluster, database_name(on_postgres), f"SELECT pg_advisory_lock({0x66616272}, hashtext('migration'))"):
        said = on_postgres.refused("migrate")
    assert said["kind"] == "locked"
    assert "postgres from this host" in said["error"]
    assert on_postgres.ok("migrate")["applied"]


# --- reverse ---


def test_going_back_reverses_exactly_what_the_older_release_does_not_know(release: Release) -> None:
    release.ok("migrate")
    older = release.ok("inspect")["known"]
    release.migration("0002_note", NOTE)
    release.migration("0003_price", PRICE)
    release.ok("migrate")
    assert release.ok("reverse", to=older, plan_only=True) == {
        "plan": ["shop.0003_price", "shop.0002_note"],
        "irreversible": {},
    }
    assert "shop.0003_price" in release.ok("inspect")["applied"]
    assert release.ok("reverse", to=older) == {"reversed": ["shop.0003_price", "shop.0002_note"]}
    assert not {"shop.0002_note", "shop.0003_price"} & set(release.ok("inspect")["applied"])
    release.sql("INSERT INTO shop_item (name) VALUES ('older code')")
    assert release.ok("reverse", to=older) == {"reversed": []}


def test_nothing_is_reversed_when_one_migration_has_no_way_back(release: Release) -> None:
    release.ok("migrate")
    older = release.ok("inspect")["known"]
    release.migration("0002_hidden", HIDDEN_ONE_WAY)
    release.migration("0003_note", NOTE)
    release.ok("migrate")
    said = release.refused("reverse", to=older)
    assert list(said["irreversible"]) == ["shop.0002_hidden"]
    assert "shop.0003_note" in release.ok("inspect")["applied"]


def test_a_reversal_that_fails_says_how_far_it_came(release: Release) -> None:
    release.ok("migrate")
    older = release.ok("inspect")["known"]
    release.migration("0002_stuck", "[migrations.RunPython(nothing, fail)]")
    release.migration("0003_note", NOTE)
    release.ok("migrate")
    said = release.refused("reverse", to=older)
    assert (said["reversed"], said["failed"]) == (["shop.0003_note"], "shop.0002_stuck")


def test_code_that_does_not_know_a_migration_does_not_reverse_around_it(bare: Release) -> None:
    bare.migration("0002_note", NOTE)
    bare.ok("migrate")
    (bare.root / "shop/migrations/0002_note.py").unlink()
    assert bare.refused("reverse", to=["shop.0001_initial"])["unknown"] == ["shop.0002_note"]


def test_a_squashed_migration_is_not_reversed_for_its_new_name(bare: Release) -> None:
    bare.migration("0002_note", NOTE)
    bare.ok("migrate")
    older = bare.ok("inspect")["known"]
    bare.write("shop/migrations/0001_squashed.py", f"""
from django.db import migrations, models
class Migration(migrations.Migration):
    replaces = [("shop", "0001_initial"), ("shop", "0002_note")]
    operations = {FIRST} + {NOTE}
""")  # fmt: skip
    bare.ok("migrate")
    assert "shop.0001_squashed" in bare.ok("inspect")["applied"]
    assert bare.ok("reverse", to=older) == {"reversed": []}
