"""project.py against real Django, SQLite and PostgreSQL: what would hurt must be said before it happens."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
POSTGRES = Path("/usr/lib/postgresql/15/bin")
PACKAGES = ("django==5.2.*", "psycopg[binary]")
CANARY = "canary-Pa55/word%2F"
KEY = "k3y-9f8e7d6c5b4a-long-enough-to-be-real-0123456789"
SETTINGS = """
    import json, os
    print("settings are loading")
    SECRET_KEY = os.environ.get("SECRET_KEY", "django-insecure-fallback")
    DEBUG = os.environ.get("DEBUG") == "1"
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "shop"]
    DATABASES = {"default": json.loads(os.environ["DATABASE"])}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    ALLOWED_HOSTS = ["*"]
    STATIC_URL = "static/"
    STATIC_ROOT = os.environ.get("STATIC_ROOT", os.path.abspath("collected"))
"""
MANAGE = """
    import os, sys
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pos.settings")
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
"""
WSGI = """
    from django.core.wsgi import get_wsgi_application
    application = get_wsgi_application()
"""
MODELS = """
    from django.db import models
    class Item(models.Model):
        name = models.CharField(max_length=50)
"""
FIRST = """[migrations.CreateModel("Item", [
    ("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=50))])]"""
NOTE = '[migrations.AddField("item", "note", models.TextField(null=True))]'
PRICE = '[migrations.AddField("item", "price", models.IntegerField(default=0))]'
DROP_NOTE = '[migrations.RemoveField("item", "note")]'
SHORTER = '[migrations.AlterField("item", "name", models.CharField(max_length=10))]'
LONGER = '[migrations.AlterField("item", "name", models.CharField(max_length=90))]'
ONE_WAY = "[migrations.RunPython(nothing)]"
HIDDEN_ONE_WAY = "[migrations.SeparateDatabaseAndState(database_operations=[migrations.RunPython(nothing)])]"
BROKEN = '[migrations.AddField("item", "half", models.TextField(null=True)), migrations.RunPython(fail, nothing)]'


@dataclass
class Answer:
    code: int
    said: dict
    out: str
    err: str


@dataclass
class Release:
    """One release folder with a tiny application in it."""

    root: Path
    python: Path
    environment: dict[str, str] = field(default_factory=dict)
    migrations: list[str] = field(default_factory=list)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"))

    def migration(self, name: str, operations: str, atomic: bool = True) -> None:
        after = f'[("shop", "{self.migrations[-1]}")]' if self.migrations else "[]"
        self.write(
            f"shop/migrations/{name}.py",
            "from django.db import migrations, models\n"
            "def nothing(*_): pass\n"
            "def fail(*_): raise ValueError('half-way')\n"
            f"class Migration(migrations.Migration):\n    dependencies = {after}\n    atomic = {atomic}\n"
            f"    operations = {operations}\n",
        )
        self.migrations.append(name)

    def command(self, verb: str, **arguments: object) -> list[str]:
        return [str(self.python), str(self.root / ".release" / "project.py"), verb, json.dumps(arguments)]

    def environ(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **self.environment, **more}

    def run(self, verb: str, environment: dict[str, str] | None = None, **arguments: object) -> Answer:
        done = subprocess.run(
            self.command(verb, **arguments), cwd=self.root, env=self.environ(**(environment or {})),
            capture_output=True, text=True, timeout=90, check=False)  # fmt: skip
        assert CANARY not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert done.returncode == (1 if "error" in said else 0)
        return Answer(done.returncode, said, done.stdout, done.stderr)

    def ok(self, verb: str, **arguments: object) -> dict:
        answer = self.run(verb, **arguments)
        assert answer.code == 0, (answer.said, answer.err)
        return answer.said

    def refused(self, verb: str, **arguments: object) -> dict:
        answer = self.run(verb, **arguments)
        assert answer.code == 1, answer.said
        assert answer.said["error"]
        return answer.said

    def sql(self, statement: str) -> list[str]:
        """Ask the database as the application's role does; the columns of a row are joined by "|"."""
        database = json.loads(self.environment["DATABASE"])
        if "PORT" not in database:
            with closing(sqlite3.connect(database["NAME"])) as connection, connection:
                return ["|".join(map(str, row)) for row in connection.execute(statement)]
        words = ["-h", database["HOST"], "-p", str(database["PORT"]), "-U", database["USER"], "-d", database["NAME"]]
        done = subprocess.run(
            [POSTGRES / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words, "-c", statement],
            env={"PGPASSWORD": database["PASSWORD"]},
            capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
        return done.stdout.splitlines()


@dataclass
class Cluster:
    """A private PostgreSQL, thrown away with its folder."""

    port: int
    folder: Path
    databases: int = 0

    def admin(self, statement: str, database: str = "postgres") -> str:
        words = ["-U", "postgres", "-h", self.folder, "-p", str(self.port), "-d", database, "-c", statement]
        psql = [POSTGRES / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words]
        done = subprocess.run(psql, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def new_database(self) -> str:
        self.databases += 1
        name = f"pos{self.databases}"
        self.admin(f"CREATE DATABASE {name} OWNER app TEMPLATE template0")
        return name

    def names(self, start: str) -> list[str]:
        return self.admin(f"SELECT datname FROM pg_database WHERE datname LIKE '{start}%' ORDER BY 1").splitlines()


def as_server(command: list[object], folder: Path) -> None:
    """PostgreSQL refuses to run as root."""
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60, cwd=folder, **who)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed")
    folder = Path(tempfile.mkdtemp(prefix="project-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    try:
        as_server([POSTGRES / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
                   "--auth-local=trust", "--auth-host=scram-sha-256"], folder)  # fmt: skip
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_prepared_transactions=5"
        as_server([POSTGRES / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], folder)
        try:
            made = Cluster(port, folder)
            made.admin(f"CREATE ROLE app LOGIN CREATEDB PASSWORD '{CANARY}'")
            yield made
        finally:
            as_server([POSTGRES / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    venv = tmp_path_factory.mktemp("venv") / ".venv"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "-q", venv], check=True, timeout=120)
    install = [uv, "pip", "install", "-q", "--compile-bytecode", "-p", venv / "bin" / "python"]
    subprocess.run([*install, *PACKAGES], check=True, timeout=120)
    return venv / "bin" / "python"


@pytest.fixture
def bare(tmp_path: Path, python: Path) -> Release:
    """A release of an application with one migration, on SQLite in shared/."""
    release = Release(tmp_path / "releases" / "20261122-101530-9f3c2ab", python)
    (tmp_path / "shared").mkdir()
    (release.root / ".release").mkdir(parents=True)
    for program in (REPOSITORY / "templates/release").glob("project*.py"):
        shutil.copy(program, release.root / ".release")
    for path, text in {"manage.py": MANAGE, "pos/__init__.py": "", "pos/settings.py": SETTINGS, "pos/wsgi.py": WSGI,
                       "shop/__init__.py": "", "shop/models.py": MODELS, "shop/migrations/__init__.py": "",
                       "shop/static/shop/a.css": "a {}"}.items():  # fmt: skip
        release.write(path, text)
    release.migration("0001_initial", FIRST)
    release.environment = {"SECRET_KEY": KEY, "DATABASE": sqlite(tmp_path / "shared" / "db.sqlite3")}
    return release


def sqlite(path: Path | str) -> str:
    return json.dumps({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)})


def postgresql(cluster: Cluster, name: str, user: str = "app", **more: object) -> str:
    return json.dumps({"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": user, "PASSWORD": CANARY,
                       "HOST": "127.0.0.1", "PORT": cluster.port, **more})  # fmt: skip


@pytest.fixture
def on_postgres(bare: Release, cluster: Cluster) -> Release:
    bare.environment["DATABASE"] = postgresql(cluster, cluster.new_database())
    return bare


@pytest.fixture(params=["sqlite", "postgresql"])
def release(request: pytest.FixtureRequest, bare: Release) -> Release:
    return bare if request.param == "sqlite" else request.getfixturevalue("on_postgres")


def database_name(release: Release) -> str:
    return json.loads(release.environment["DATABASE"])["NAME"]


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
    with session(cluster, database_name(on_postgres), "BEGIN; LOCK TABLE shop_item"):
        said = on_postgres.refused("migrate", lock_timeout_ms=200)
    assert said["failed"] == "shop.0002_note"
    assert "holds the table" in said["hint"]


def test_two_hosts_never_migrate_at_once(on_postgres: Release, cluster: Cluster) -> None:
    with session(cluster, database_name(on_postgres), f"SELECT pg_advisory_lock({0x66616272}, hashtext('migration'))"):
        said = on_postgres.refused("migrate")
    assert said["kind"] == "locked"
    assert "postgres from this host" in said["error"]
    assert on_postgres.ok("migrate")["applied"]


class session:
    """A psql that has said something and stays in its transaction until the block ends."""

    def __init__(self, cluster: Cluster, database: str, statement: str, user: str = "postgres") -> None:
        words = [POSTGRES / "psql", "-XAtq", "-U", user, "-h", cluster.folder, "-p", str(cluster.port), "-d", database]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        self.statement = statement

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{self.statement};\n\\echo ready\n")
        self.process.stdin.flush()
        while self.process.stdout.readline().strip() != "ready":
            assert self.process.poll() is None
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


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


# --- restore points ---


@pytest.fixture
def saved(release: Release, tmp_path: Path) -> tuple[Release, Path]:
    """A database with one row, and a restore point of it called `point`."""
    release.ok("migrate")
    release.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    point = release.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    assert point["rows"] >= 2
    return release, tmp_path / "backups"


def items(release: Release) -> list[str]:
    return release.sql("SELECT name FROM shop_item ORDER BY id")


def test_a_restore_point_says_what_is_in_it_and_only_we_can_read_it(saved: tuple[Release, Path]) -> None:
    release, backups = saved
    manifest = json.loads((backups / "point.json").read_text())
    data = backups / manifest["file"]
    assert manifest["release"] == release.root.name
    assert "shop.0001_initial" in manifest["applied"]
    assert manifest["bytes"] == data.stat().st_size
    assert [rows for table, rows in manifest["rows"].items() if table.endswith("shop_item")] == [1]
    assert {path.stat().st_mode & 0o777 for path in backups.iterdir()} == {0o600}
    assert sorted(path.name for path in backups.iterdir()) == sorted(["point.json", data.name])
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
    assert list((tmp_path / "backups").iterdir()) == []


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
@pytest.mark.parametrize("moment", list(SEEN))
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
    # a superuser's session came in after the checks: it cannot be ended, so the rename stands and waits
    inside = session(cluster, name, "SELECT 1") if moment == "swapping" else nullcontext()
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
