"""What people install is whole: the wheel alone, in a clean environment, in a repository of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parent.parent
URLS = """from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("hello")), path("healthz", lambda request: HttpResponse("well"))]
"""
SETTINGS = """import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "x" * 60 + "abcdef")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.staticfiles"]
ROOT_URLCONF = "site1.urls"
WSGI_APPLICATION = "site1.wsgi.application"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""
MANAGE = """import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""
WSGI = """import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
application = get_wsgi_application()
"""


def run(*words: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Without anything of this checkout in reach."""
    hidden = ("PYTHON", "VIRTUAL_ENV", "GIT", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        words, cwd=cwd, env=kept, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )
    assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(folder), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fab(wheel: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        run(uv.find_uv_bin(), "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
        run(uv.find_uv_bin(), "pip", "install", "--quiet", "--python", f"{folder}/bin/python", str(wheel), cwd=ROOT)
        yield f"{folder}/bin/fab"


@pytest.fixture
def project() -> Iterator[Path]:
    """A minimal Django project in git; a short path, since unix sockets have little room."""
    with tempfile.TemporaryDirectory(prefix="w-") as name:
        folder = Path(name)
        files = {"manage.py": MANAGE, "site1/__init__.py": "", "site1/settings.py": SETTINGS, "site1/urls.py": URLS,
                 "site1/wsgi.py": WSGI, "requirements.txt": "django>=5.2,<6\ngunicorn>=23\n"}  # fmt: skip
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        commit(folder)
        yield folder


def commit(folder: Path) -> None:
    named = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a", "--allow-empty"]):
        run(*named, *words, cwd=folder)


def test_everything_a_server_needs_is_inside(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    files = run("git", "ls-files", "templates", "tasks", cwd=ROOT).stdout.split()
    wanted = {f"fab_releases/{path.removeprefix('tasks/')}" for path in files}
    assert wanted <= held, wanted - held
    assert {name.split("/")[0] for name in held if ".dist-info" not in name} == {"fab_releases"}


def test_one_line_in_a_fabfile_is_all_it_takes(fab: str, project: Path) -> None:
    (project / "fabfile.py").write_text("from fab_releases import namespace\n")
    told = run(fab, "--list", cwd=project).stdout
    for name in ("deploy", "rollback", "status", "init"):
        assert f"\n  {name} " in told


def test_a_project_without_a_fabfile_begins_with_a_command_of_the_wheel(fab: str, project: Path) -> None:
    begin = str(Path(fab).with_name("fab-releases"))
    assert "fab deploy" in run(begin, "init", cwd=project).stdout
    assert (project / "fabfile.py").read_text() == "from fab_releases import namespace\n"
    told = run(begin, "deploy", "--nonsense", cwd=project, check=False)
    assert (told.returncode, "Traceback" in told.stderr) == (2, False), told.stderr


@pytest.mark.sandbox
def test_a_project_of_ones_own_is_live_after_init_and_deploy(fab: str, project: Path) -> None:
    (project / "fabfile.py").write_text("from fab_releases import namespace\n")
    run(fab, "init", cwd=project)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = project / "releases.toml"
    assert "8000" in config.read_text()
    config.write_text(config.read_text().replace("8000", str(port)))
    commit(project)
    try:
        run(fab, "deploy", "--stage", "sandbox", cwd=project)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert answer.read() == b"hello"
        assert "web" in run(fab, "status", "--stage", "sandbox", cwd=project).stdout
    finally:
        run(fab, "stop", "--stage", "sandbox", "--yes", cwd=project, check=False)
