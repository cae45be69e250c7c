"""The example's revisions are what other tests deploy: each must be as good, or as broken, as its tag says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uv

from examples import revisions

# Starting Django is most of what a command costs, so one process runs all that a test wants in a row.
CALL = """
import json, sys, django
django.setup()
from django.core.management import call_command
from django.test import Client
commands, requests = json.loads(sys.argv[1])
for words in commands:
    call_command(*words.split())
client = Client(raise_request_exception=False, headers={"Host": "localhost"})
answers = []
for method, path, body in requests:
    answer = client.generic(method, path, json.dumps(body), content_type="application/json")
    error = answer.exc_info[0].__name__ if getattr(answer, "exc_info", None) else ""
    answers.append([answer.status_code, error, answer.content.decode()])
print(json.dumps(answers))
"""
COLLECTSTATIC = "collectstatic --no-input --verbosity=0"
HEALTH = ("GET", "/healthz", None)
PAGE = ("GET", "/", None)
SALES = ("GET", "/api/sales/", None)
SELL = ("POST", "/api/sales/", {"uid": "till-1-000001", "product": "coffee", "quantity": 2, "note": "to go"})


@dataclass(frozen=True)
class Answer:
    status: int
    error: str
    body: str


@dataclass(frozen=True)
class Release:
    """A checkout of one tag, the Python it runs on, and the database it is given."""

    directory: Path
    python: Path
    database: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        whole = {
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "pos.settings",
            "SECRET_KEY": "a key of fifty characters or more, for nothing but tests",
            "DATABASE_URL": f"sqlite:///{self.database}",
        }
        command = [str(self.python), *words]
        return subprocess.run(
            command,
            cwd=self.directory,
            env=whole | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def manage(self, *commands: str, **environment: str) -> str:
        return self.says(CALL, json.dumps([commands, []]), **environment)

    def ask(self, *requests: tuple[str, str, object], after: tuple[str, ...] = ()) -> list[Answer]:
        """The answers to requests, after the management commands."""
        said = self.says(CALL, json.dumps([after, requests]))
        return [Answer(*answer) for answer in json.loads(said.splitlines()[-1])]

    def says(self, code: str, *words: str, **environment: str) -> str:
        done = self.run("-c", code, *words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fails(self, *words: str, **environment: str) -> str:
        """The last line of what it says when it fails."""
        done = self.run(*words, **environment)
        assert done.returncode != 0, done.stdout
        return done.stderr.strip().splitlines()[-1]

    def columns(self, table: str) -> set[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


Checkout = Callable[[str], Release]


def install(directory: Path, requirements: Path) -> Path:
    """A virtual environment with the requirements, hashes checked; its Python."""
    uv_bin, python = uv.find_uv_bin(), directory / "bin" / "python"
    subprocess.run([uv_bin, "venv", "--quiet", "--python", sys.executable, directory], check=True)
    subprocess.run(
        [uv_bin, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", requirements], check=True
    )
    return python


def unpack(repository: Path, tag: str, directory: Path) -> None:
    directory.mkdir()
    archive = subprocess.run(["git", "-C", repository, "archive", tag], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", directory], input=archive, check=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    revisions.make(path)
    return path


@pytest.fixture(scope="module")
def base(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The good revision, installed and migrated."""
    path = tmp_path_factory.mktemp("base")
    unpack(repository, "base", path / "checkout")
    python = install(path / "venv", path / "checkout" / "requirements.txt")
    release = Release(path / "checkout", python, path / "db.sqlite3")
    release.manage("migrate --verbosity=0")
    return release


@pytest.fixture
def checkout(repository: Path, base: Release, tmp_path: Path) -> Checkout:
    """Unpack a tag; all releases of one test share one database, which starts as base left it."""
    database = tmp_path / "db.sqlite3"
    shutil.copy(base.database, database)

    def unpacked(tag: str) -> Release:
        unpack(repository, tag, tmp_path / tag)
        return Release(tmp_path / tag, base.python, database)

    return unpacked


def test_the_same_files_give_the_same_shas(repository: Path, tmp_path: Path) -> None:
    shas = revisions.make(tmp_path / "again")
    listing = revisions.git(repository, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags")
    assert shas == dict(line.split() for line in listing.splitlines())
    assert set(shas) == {"base", *(revision.tag for revision in revisions.REVISIONS)}
    assert revisions.git(repository, "rev-parse", "main").strip() == shas["base"]
    assert revisions.git(repository, "status", "--porcelain") == ""


def test_nobodys_folder_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty"):
        revisions.make(tmp_path)


def test_an_edit_that_no_longer_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="has 0 of 'tea', not 1"):
        revisions.replace("menu", "tea", "coffee")({"menu": "milk"})
    with pytest.raises(ValueError, match="has 2 of 'tea', not 1"):
        revisions.replace("menu", "tea", "coffee")({"menu": "tea, tea"})
    with pytest.raises(ValueError, match="menu is already there"):
        revisions.add("menu", "")({"menu": ""})


def test_base_is_well(base: Release) -> None:
    base.manage("check --deploy --fail-level=WARNING", HTTPS_ONLY="1")
    base.manage("test")
    health, page = base.ask(HEALTH, PAGE, after=(COLLECTSTATIC,))
    assert health.status == 200
    assert json.loads(health.body) == {"ok": True, "release": "unreleased", "database": "ok", "cache": "ok"}
    assert page.status == 200
    assert re.search(r"/static/pos/site\.\w{12}\.css", page.body)


def test_base_refuses_to_start_without_its_secret(base: Release) -> None:
    assert "SECRET_KEY is not set" in base.fails("manage.py", "check", SECRET_KEY="")


def test_code_only_looks_different(base: Release, checkout: Checkout) -> None:
    before, after = (release.ask(PAGE, after=(COLLECTSTATIC,))[0].body for release in (base, checkout("code-only")))
    assert ("oat milk" in before, "oat milk" in after) == (False, True)
    assert re.search(r"site\.\w+\.css", before)[0] != re.search(r"site\.\w+\.css", after)[0]


def test_new_requirement_works_only_where_it_is_installed(checkout: Checkout, tmp_path: Path) -> None:
    release = checkout("new-requirement")
    assert "No module named 'humanize'" in release.fails("manage.py", "check")
    python = install(tmp_path / "venv", release.directory / "requirements.txt")
    replace(release, python=python).manage("check")


def test_additive_migration_lets_the_code_before_it_sell(checkout: Checkout) -> None:
    before, after = checkout("base"), checkout("additive-migration")
    after.manage("migrate --verbosity=0", "makemigrations --check")
    assert "shelf" in after.columns("inventory_product")
    assert [answer.status for answer in before.ask(SALES, SELL)] == [200, 201]


def test_additive_not_null_lets_the_code_before_it_read_and_not_sell(checkout: Checkout) -> None:
    before, after = checkout("base"), checkout("additive-not-null")
    after.manage("migrate --verbosity=0", "makemigrations --check")
    health, sales, sale = before.ask(HEALTH, SALES, SELL)
    assert (health.status, sales.status) == (200, 200)
    assert (sale.status, sale.error) == (500, "IntegrityError")
    assert after.ask(SELL)[0].status == 201


def test_destructive_migration_loses_the_column_and_reversing_loses_the_data(checkout: Checkout) -> None:
    before, after = checkout("base"), checkout("destructive-migration")
    assert before.ask(SELL)[0].status == 201
    after.manage("migrate --verbosity=0", "makemigrations --check")
    health, sales = before.ask(HEALTH, SALES)
    assert (health.status, sales.error) == (200, "OperationalError")
    after.manage("migrate sales 0001 --verbosity=0")
    assert json.loads(before.ask(SALES)[0].body)["results"][0]["note"] == ""


def test_irreversible_migration_cannot_be_reversed(checkout: Checkout) -> None:
    after = checkout("irreversible-migration")
    after.manage("migrate --verbosity=0")
    assert "IrreversibleError" in after.fails("manage.py", "migrate", "inventory", "0002")


def test_failing_migration_damages_the_release_that_is_running(checkout: Checkout) -> None:
    before, after = checkout("base"), checkout("failing-migration")
    assert "no such table: tills" in after.fails("manage.py", "migrate")
    assert "till" in after.columns("sales_sale")
    assert "[ ] 0002_sale_till" in after.manage("showmigrations sales")
    assert before.ask(SELL)[0].error == "IntegrityError"


def test_failing_atomic_migration_leaves_no_trace(checkout: Checkout) -> None:
    before, after = checkout("base"), checkout("failing-atomic-migration")
    assert "no such table: tills" in after.fails("manage.py", "migrate")
    assert "till" not in after.columns("sales_sale")
    assert before.ask(SELL)[0].status == 201


def test_superuser_migration_does_not_pass_for_everybody(checkout: Checkout) -> None:
    assert "OperationalError" in checkout("superuser-migration").fails("manage.py", "migrate")


def test_the_slow_ones_are_slow(checkout: Checkout) -> None:
    migrate = "from django.core.management import call_command; call_command('migrate', verbosity=0)"
    request = "from django.test import Client; Client(headers={'Host': 'localhost'}).get('/healthz')"
    slow = {"slow-migration": (migrate, 5), "slow-boot": ("import pos.wsgi", 5), "slow-first-request": (request, 6)}
    releases = {tag: checkout(tag) for tag in slow}

    def seconds(tag: str) -> float:
        timed = f"import time, django; django.setup(); start = time.monotonic(); {slow[tag][0]}"
        return float(releases[tag].says(f"{timed}; print(time.monotonic() - start)", POS_MIGRATION_SECONDS="5"))

    with ThreadPoolExecutor() as pool:
        measured = dict(zip(slow, pool.map(seconds, slow), strict=True))
    assert [tag for tag in slow if measured[tag] < slow[tag][1]] == []


def test_broken_import_boots_and_answers_nothing(checkout: Checkout) -> None:
    release = checkout("broken-import")
    release.says("import pos.wsgi")
    assert "No module named 'sales.receipts'" in release.fails("manage.py", "check")
    assert "No module named 'sales.receipts'" in release.fails("-c", CALL, json.dumps([[], [HEALTH]]))


def test_broken_wsgi_passes_the_check_and_does_not_boot(checkout: Checkout) -> None:
    release = checkout("broken-wsgi")
    release.manage("check --deploy")
    assert "No module named 'pos.monitoring'" in release.fails("-c", "import pos.wsgi")


def test_broken_settings_want_what_nobody_has_set(checkout: Checkout) -> None:
    release = checkout("broken-settings")
    assert "KeyError: 'PAYMENT_KEY'" in release.fails("manage.py", "check")
    release.manage("check", PAYMENT_KEY="set")


def test_unhealthy_boots_and_is_not_well(checkout: Checkout) -> None:
    health = checkout("unhealthy").ask(HEALTH)[0]
    assert health.status == 503
    assert json.loads(health.body)["printer"] == "ConnectionRefusedError"


def test_worker_dead_is_well_on_the_web_and_dies_in_the_worker(checkout: Checkout) -> None:
    release = checkout("worker-dead")
    assert release.ask(HEALTH, after=("check --deploy",))[0].status == 200
    for role in ("worker", "beat"):
        words = ("-m", "celery", "-A", "pos", role)
        assert "No module named 'openpyxl'" in release.fails(*words, REDIS_URL="redis://127.0.0.1:1/0")


def test_unconsumed_queue_has_no_worker(base: Release, checkout: Checkout) -> None:
    code = (
        "from pos.celery import app; consumed = set(app.amqp.queues.consume_from); "
        "queue = app.amqp.router.route({}, 'reports.tasks.build')['queue'].name; print(queue, queue in consumed)"
    )
    assert base.says(code) == "reports True"
    assert checkout("unconsumed-queue").says(code) == "exports False"


def test_debug_on_ignores_the_environment(base: Release, checkout: Checkout) -> None:
    code = "from django.conf import settings; print(settings.DEBUG)"
    assert base.says(code, DEBUG="0") == "False"
    assert checkout("debug-on").says(code, DEBUG="0") == "True"


def test_sqlite_fallback_ignores_the_database_it_was_given(base: Release, checkout: Checkout) -> None:
    code = "from django.conf import settings; print(settings.DATABASES['default']['ENGINE'].rpartition('.')[2])"
    url = "postgres://pos:password@127.0.0.1:1/pos"
    assert base.says(code, DATABASE_URL=url) == "postgresql"
    assert checkout("sqlite-fallback").says(code, DATABASE_URL=url) == "sqlite3"


def test_import_writes_into_the_checkout(checkout: Checkout) -> None:
    release = checkout("import-writes")
    release.manage("check")
    assert (release.directory / "logs" / "app.log").is_file()
    shutil.rmtree(release.directory / "logs")
    assert "Unable to configure handler 'file'" in release.fails("manage.py", "check")


def test_lfs_has_a_pointer_where_the_logo_should_be(checkout: Checkout) -> None:
    release = checkout("lfs")
    assert (release.directory / "pos/static/pos/logo.png").read_text().startswith("version https://git-lfs")
    assert "filter=lfs" in (release.directory / ".gitattributes").read_text()
    assert "/static/pos/logo." in release.ask(PAGE, after=(COLLECTSTATIC,))[0].body


def test_newer_python_cannot_be_installed(checkout: Checkout) -> None:
    release = checkout("newer-python")
    command = [uv.find_uv_bin(), "lock", "--offline", "--python", sys.executable, "--directory", release.directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert ">=3.99" in done.stderr


def test_own_gunicorn_config_is_what_gunicorn_reads(checkout: Checkout) -> None:
    done = checkout("own-gunicorn-config").run("-m", "gunicorn", "--print-config", "pos.wsgi")
    assert "127.0.0.1:8999" in done.stdout


def test_media_in_git_is_not_empty(checkout: Checkout) -> None:
    assert list((checkout("media-in-git").directory / "media").rglob("*.txt"))


def test_sub_directory_works_from_there_and_only_from_there(checkout: Checkout) -> None:
    release = checkout("sub-directory")
    assert (release.directory / "requirements.txt").is_file()
    assert not (release.directory / "manage.py").exists()
    inner = replace(release, directory=release.directory / "backend")
    assert inner.ask(HEALTH, after=("check --deploy",))[0].status == 200
