"""One virtual environment with what applications bring, and small releases, for the tests of the programs in them."""

from __future__ import annotations

import functools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

PROGRAMS = Path(__file__).parent.parent / "templates" / "release"
RELEASE = "20261122-101530-9f3c2ab"


@functools.cache
def _shared_venv() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="programs-venv-")
    command = [uv.find_uv_bin(), "venv", "-q", "--relocatable", "--python", sys.executable, folder.name]
    subprocess.run(command, check=True)
    wanted = ["gunicorn==27.*", "celery[redis]>=5.5,<6", "python-dotenv", "python-decouple"]
    command = [
        uv.find_uv_bin(),
        "pip",
        "install",
        "-q",
        "--compile-bytecode",
        "--python",
        f"{folder.name}/bin/python",
        *wanted,
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def programs_venv() -> Path:
    """gunicorn, celery, python-dotenv and python-decouple; built once, removed when the process ends."""
    return Path(_shared_venv().name)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a unix socket."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        yield Path(folder)


def build_release(deploy_to: Path, venv: Path, services: dict, release: str = RELEASE, **environment: object) -> Path:
    """A release as the build leaves it: our programs, services.json and a link to a venv; shared/ beside it."""
    root, shared = deploy_to / "releases" / release, deploy_to / "shared"
    for folder in (root / "app", shared):
        folder.mkdir(parents=True, exist_ok=True)
    (root / ".venv").symlink_to(venv)
    shutil.copytree(PROGRAMS, root / ".release", ignore=shutil.ignore_patterns("__pycache__"))
    facts = {
        "application": "shop",
        "release": release,
        "root": str(root),
        "directory": "app",
        "shared": str(shared),
        "run": str(deploy_to / "run"),
        "environment": {"file": "", "format": "dotenv", "set": {}, **environment},
        "manage": "manage.py",
        "services": services,
    }
    (root / ".release" / "services.json").write_text(json.dumps(facts))
    return root


def launch(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-IS", str(root / ".release" / "launch.py"), *words]


class NotifySocket:
    """What systemd listens on for READY=1."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def message(self, seconds: float) -> str | None:
        """The next message, or None when none came within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return None
