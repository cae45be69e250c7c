"""Folders that other accounts may pass: pytest shuts its own to everybody else, whenever another run begins."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def passable() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fab-releases-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)  # shutil goes no thousand folders deep
