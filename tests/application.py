"""A small Django application with our programs in it, and a PostgreSQL of its own, for tests of both."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
POSTGRES = max(
    Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=Path("/nowhere")
)
"""Of the newest PostgreSQL of this machine."""
PACKAGES = ("django==5.2.*", "psycopg[binary]")
CANARY = "canary-Pa55/word%2F"
KEY = "k3y-9f8e7d6c5b4a-long-enough-to-be-real-0123456789"
SETTINGS = """
    import json, os
    print("settings are loading")
    SECRET_KEY = os.environ.get("SECRET_KEY", "django-insecure-fallback")
    DEBUG = os.environ.get("DEBUG") == "1"
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "shop"]
    DATABASES = {"default": json.loads(os.environ["DATABASE"]), **json.loads(os.environ.get("MORE_DATABASES", "{}"))}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    ALLOWED_HOSTS = ["*"]
    DATABASE_ROUTERS = os.environ.get("ROUTERS", "").split()
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
    options: str = ""
    databases: int = 0

    def start(self) -> None:
        where = ("-D", self.folder / "data", "-w", "-l", self.folder / "log")
        as_server([POSTGRES / "pg_ctl", *where, "-o", self.options, "start"], self.folder)

    def restart(self) -> None:
        as_server([POSTGRES / "pg_ctl", "-D", self.folder / "data", "-w", "-m", "fast", "stop"], self.folder)
        self.start()

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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="project-pg-"))
    try:
        with started(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@contextmanager
def started(folder: Path, *settings: str) -> Iterator[Cluster]:
    """A PostgreSQL in an empty folder, with a role `app` that may do what fab provision lets it do."""
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    as_server([POSTGRES / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
               "--auth-local=trust", "--auth-host=scram-sha-256"], folder)  # fmt: skip
    given = ("listen_addresses=127.0.0.1", "fsync=off", "max_prepared_transactions=5", "wal_level=logical", *settings)
    options = " ".join([f"-p {port} -k {folder}", *(f"-c {setting}" for setting in given)])
    made = Cluster(port, folder, options)
    made.start()
    try:
        made.admin(f"CREATE ROLE app LOGIN CREATEDB PASSWORD '{CANARY}'")
        yield made
    finally:
        as_server([POSTGRES / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"], folder)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    venv = tmp_path_factory.mktemp("venv") / ".venv"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "-q", venv], check=True, timeout=120)
    install = [uv, "pip", "install", "-q", "--compile-bytecode", "-p", venv / "bin" / "python"]
    subprocess.run([*install, *PACKAGES], check=True, timeout=120)
    return venv / "bin" / "python"


@pytest.fixture
def bare(tmp_path: Path, python: Path) -> Release:
    return made_in(tmp_path, python)


def made_in(folder: Path, python: Path) -> Release:
    """A release of an application with one migration, on SQLite in shared/."""
    release = Release(folder / "releases" / "20261122-101530-9f3c2ab", python)
    (folder / "shared").mkdir()
    (release.root / ".release").mkdir(parents=True)
    for program in (REPOSITORY / "templates/release").glob("project*.py"):
        shutil.copy(program, release.root / ".release")
    for path, text in {"manage.py": MANAGE, "pos/__init__.py": "", "pos/settings.py": SETTINGS, "pos/wsgi.py": WSGI,
                       "shop/__init__.py": "", "shop/models.py": MODELS, "shop/migrations/__init__.py": "",
                       "shop/static/shop/a.css": "a {}"}.items():  # fmt: skip
        release.write(path, text)
    release.migration("0001_initial", FIRST)
    release.environment = {"SECRET_KEY": KEY, "DATABASE": sqlite(folder / "shared" / "db.sqlite3")}
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
