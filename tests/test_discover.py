"""`fab init` reads somebody's project and writes a releases.toml that is right at once, and nothing over theirs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.config.discover import Project, discover
from tasks.config.load import load, stage
from tasks.config.write import files, template, workflow, write
from tasks.model.config import Stage
from tasks.model.errors import UsageError

ROOT = Path(__file__).parent.parent
MANAGE = 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "{}")\n'
WSGI = MANAGE + "application = get_wsgi_application()\n"


def lay(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=trunk"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def committed(root: Path, origin: str = "") -> Path:
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    if origin:
        git(root, "remote", "add", "origin", origin)
    return root


def started(root: Path) -> tuple[Project, Stage, Stage]:
    """What is found, and both stages of the file that is written for it."""
    project = discover(root)
    write(root, files(project))
    config = load(root / "releases.toml")
    return project, stage(config), stage(config, "production")


def test_a_plain_project_with_sqlite_and_nothing_else(tmp_path: Path) -> None:
    root = committed(
        lay(
            tmp_path / "my shop!",
            {
                "manage.py": MANAGE.format("site1.settings"),
                "site1/__init__.py": "",
                "site1/settings.py": 'ROOT_URLCONF = "site1.urls"\nWSGI_APPLICATION = "site1.wsgi.application"\n'
                'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}\n'
                '# STATIC_ROOT = "x"\n',
                "site1/urls.py": 'urlpatterns = [path("admin/", admin.site.urls)]\n',
                "site1/wsgi.py": WSGI.format("site1.settings"),
                "requirements.txt": "Django==5.2\n",
            },
        )
    )
    project = discover(root)
    assert (project.application, project.branch, project.repository) == ("my-shop", "trunk", "")
    assert (project.engine, project.sqlite, project.celery, project.collects) == ("sqlite", "db.sqlite3", "", False)
    written = files(project)["releases.toml"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/releases.toml").write_text(written)
    config = load(tmp_path / "plain/releases.toml")
    sandbox, production = stage(config), stage(config, "production")
    assert (sandbox.shared_files, sandbox.django.strict) == (("db.sqlite3",), False)
    assert set(production.services) == {"web"}
    assert (production.django.wsgi, production.django.collectstatic) == ("site1.wsgi:application", False)
    assert production.python.extra == ("gunicorn",)
    assert production.health.expect == (200, 301, 302)


def test_the_project_lies_below_the_top_with_its_own_names_and_a_lock_above(tmp_path: Path) -> None:
    root = committed(
        lay(
            tmp_path / "checkout",
            {
                "uv.lock": '[[package]]\nname = "gunicorn"\n',
                "requirements.txt": "Django\n",
                "pyproject.toml": '[project]\nname = "x"\nrequires-python = ">=3.12,<4"\n',
                "backend/manage.py": MANAGE.format("config.settings.local"),
                "backend/config/settings/base.py": 'WSGI_APPLICATION = "config.wsgi.application"\n'
                'ROOT_URLCONF = "config.urls"\nSTATIC_ROOT = os.path.join(BASE_DIR, "public", "static")\n'
                'MEDIA_ROOT = os.environ.get("MEDIA", BASE_DIR / "media")\nDATABASES = {"default": env.db()}\n',
                "backend/config/settings/local.py": "from .base import *\n",
                "backend/config/settings/production.py": "from .base import *\nfrom decouple import config\n",
                "backend/config/wsgi.py": WSGI.format("config.settings.production"),
                "backend/config/urls.py": 'path(r"api/healthz/", view)\n',
                "backend/work/queue.py": 'task_app: Celery = Celery("work")\n',
                "backend/work/tasks.py": '@task_app.task(queue="reports")\ndef build(): ...\n',
                "backend/.env.sample": "A=1\n",
                "node_modules/manage.py": MANAGE.format("wrong"),
                ".gitattributes": "*.bin filter=lfs\n",
                ".gitmodules": "",
            },
        ),
        "https://token@git.example.com/team/The_Shop.git",
    )
    project, sandbox, production = started(root)
    assert (project.application, project.repository) == ("the-shop", "https://git.example.com/team/The_Shop.git")
    assert (sandbox.django.settings, production.django.settings) == (
        "config.settings.local",
        "config.settings.production",
    )
    assert (production.django.manage, production.directory) == ("backend/manage.py", "backend")
    assert production.django.static_root == "public/static"
    assert (production.python.requirements, production.python.extra) == ("uv.lock", ())
    assert (production.python.version, project.python_minimum) == ("", "3.12")
    assert (production.shared_dirs, sandbox.shared_dirs) == (("backend/media",), ("backend/media", "backend/data"))
    assert sandbox.environment.set == {"DATABASE_URL": "sqlite:///data/db.sqlite3"}
    assert production.services["worker"].application == "work.queue"
    assert production.services["worker"].queues == ("celery", "reports")
    assert "beat" not in production.services
    assert production.health.path == "/api/healthz/"
    assert (production.environment.format, project.environment_example) == ("decouple", "backend/.env.sample")
    assert len(project.notes) == 2


def test_a_folder_of_a_larger_repository(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"apps/shop/manage.py": MANAGE.format("shop.settings"), "apps/shop/shop/wsgi.py": WSGI.format("shop.settings")},
    )
    committed(tmp_path)
    root = tmp_path / "apps/shop"
    project, sandbox, _ = started(root)
    assert (sandbox.repository, sandbox.sub_directory) == (str(tmp_path), "apps/shop")
    assert (sandbox.deploy_to, sandbox.django.settings) == (str(root / ".sandbox"), "shop.settings")
    assert any("run in apps/shop" in note for note in project.notes)
    assert "../../.github/workflows/deploy.yml" in files(project, "github")


def test_only_asgi_is_served_by_a_worker_that_can(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"manage.py": MANAGE.format("chat.settings"), "chat/settings.py": "", "chat/asgi.py": "application = 1\n"},
    )
    _, sandbox, production = started(committed(tmp_path))
    assert (
        production.services["web"].command
        == "gunicorn --worker-class uvicorn_worker.UvicornWorker chat.asgi:application"
    )
    assert sandbox.python.extra == ("gunicorn", "uvicorn-worker")


def test_neither_wsgi_nor_asgi_still_starts(tmp_path: Path) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("tiny"), "tiny.py": "DEBUG = True\n"})
    _, sandbox, _ = started(committed(tmp_path))
    assert sandbox.services["web"].command == "gunicorn 'django.core.wsgi:get_wsgi_application()'"


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["uv.lock", "pylock.toml", "requirements.txt"], "uv.lock"),
        (["pylock.toml", "requirements.txt"], "pylock.toml"),
        (["requirements/base.txt", "requirements/production.txt"], "requirements/production.txt"),
        (["poetry.lock", "pyproject.toml"], "requirements.txt"),
        (["poetry.lock", "requirements.txt"], "requirements.txt"),
        (["pyproject.toml"], "pyproject.toml"),
        ([], ""),
    ],
)
def test_the_best_lock_is_taken(tmp_path: Path, there: list[str], chosen: str) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings"), **dict.fromkeys(there, "")})
    project = discover(tmp_path)
    assert project.requirements == chosen
    assert any("poetry export" in note for note in project.notes) == (there == ["poetry.lock", "pyproject.toml"])


@pytest.mark.parametrize(
    ("line", "static"),
    [
        ('STATIC_ROOT = BASE_DIR / "staticfiles"', "staticfiles"),
        ('STATIC_ROOT = os.path.join(BASE_DIR, "a", "b")', "a/b"),
        ('STATIC_ROOT = BASE_DIR.parent / "static"', ""),
        ('STATIC_ROOT = "/var/www/static"', ""),
        ('STATIC_ROOT = "../static"', ""),
        ('STATIC_ROOT = os.environ["STATIC"]', ""),
        ('STATIC_ROOT = f"{HERE}/static"', ""),
        ("STATIC_ROOT = HERE", ""),
    ],
)
def test_a_static_root_that_cannot_be_read_is_not_guessed(tmp_path: Path, line: str, static: str) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings"), "a/settings.py": line + "\n"})
    assert (discover(tmp_path).static_root, discover(tmp_path).collects) == (static, True)


@pytest.mark.parametrize(
    ("origin", "application", "repository"),
    [
        ("git@git.example.com:team/shop.git", "shop", "git@git.example.com:team/shop.git"),
        ("ssh://git@git.example.com:2222/team/99 bottles", "bottles", ""),
        ("https://me:hunter2@git.example.com/Ünï-cödé.git", "n-c-d", "https://git.example.com/Ünï-cödé.git"),
        ("/srv/git/shop.git", "shop", ""),
        ("https://git.example.com/" + "x" * 60, "x" * 40, "https://git.example.com/" + "x" * 60),
    ],
)
def test_odd_names_become_names(tmp_path: Path, origin: str, application: str, repository: str) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings")})
    project, sandbox, production = started(committed(tmp_path, origin))
    assert (project.application, project.repository) == (application, repository)
    assert sandbox.application == application
    assert "hunter2" not in (tmp_path / "releases.toml").read_text()
    assert production.repository == (repository or f"https://git.example.com/{application}.git")


def test_the_version_a_project_pins_is_asked_for(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"manage.py": MANAGE.format("a.settings"), ".python-version": "3.13.1\n", "pyproject.toml": "[project"},
    )
    project, sandbox, production = started(committed(tmp_path))
    assert (project.python, production.python.version, sandbox.python.version) == ("3.13", "3.13", "")


def test_no_project_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no manage\.py"):
        discover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_in_the_file_is_said(tmp_path: Path) -> None:
    lay(tmp_path, {"my project/manage.py": MANAGE.format("a.settings")})
    with pytest.raises(UsageError, match=r'"my project/manage\.py" cannot be released'):
        discover(tmp_path)


def test_a_project_that_was_never_committed_is_told(tmp_path: Path) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings")})
    assert any("git commit" in note for note in discover(tmp_path).notes)


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings"), "fabfile.py": "mine\n"})
    wanted = files(discover(tmp_path))
    assert write(tmp_path, wanted) == (["releases.toml"], ["fabfile.py"])
    assert (tmp_path / "fabfile.py").read_text() == "mine\n"
    assert write(tmp_path, wanted) == ([], ["releases.toml", "fabfile.py"])


def test_a_link_to_nowhere_is_kept_too(tmp_path: Path) -> None:
    lay(tmp_path, {"manage.py": MANAGE.format("a.settings")})
    (tmp_path / "fabfile.py").symlink_to(tmp_path / "elsewhere.py")
    assert write(tmp_path, files(discover(tmp_path)))[1] == ["fabfile.py"]
    assert not (tmp_path / "elsewhere.py").exists()


def test_the_example_is_found_as_it_is() -> None:
    project = discover(ROOT / "examples/pos")
    assert (project.settings, project.wsgi, project.celery) == ("pos.settings", "pos.wsgi:application", "pos.celery")
    assert (project.beat, project.queues, project.health) == (True, ("celery", "reports"), "/healthz")
    assert (project.requirements, project.static_root, project.media) == ("requirements.txt", "staticfiles", "media")
    assert (project.database_url, project.environment_example) == (True, ".env.example")


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_no_marker_is_left_in_a_pipeline(tmp_path: Path, ci: str) -> None:
    lay(tmp_path, {"backend/manage.py": MANAGE.format("a.settings"), "requirements.txt": ""})
    project = discover(tmp_path)
    *_, text = files(project, ci).values()  # type: ignore[arg-type]
    assert not re.search(r"@[A-Z_]+@", text)
    assert "backend" in text
    assert "a.settings" in text
    without = workflow(replace(project, settings=""), template(f"deploy.{ci}.yml"))
    assert "DJANGO_SETTINGS_MODULE" not in without
