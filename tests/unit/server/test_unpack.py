"""The code that a session brings to a server lies whole, where only its account writes, or nowhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tasks.remote.library import library, server_code


def unpacked(place: Path) -> subprocess.CompletedProcess[str]:
    digest, code = server_code()
    said = f"{library()}\nexec 3>/dev/null\nSERVER_HASH={digest}\nSERVER_CODE={code}\nserver_unpacked {place}\n"
    return subprocess.run(["bash", "-s"], input=said, capture_output=True, text=True)


def test_the_code_is_unpacked_once_and_whole(tmp_path: Path) -> None:
    first = unpacked(tmp_path / "cache")
    folder = Path(first.stdout)
    assert folder == tmp_path / "cache" / server_code()[0]
    assert (folder / "values" / "wire.py").read_text() == Path("tasks/server/values/wire.py").read_text()
    before = folder.stat().st_mtime_ns
    assert unpacked(tmp_path / "cache").stdout == first.stdout
    assert folder.stat().st_mtime_ns == before
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account's folder is made")
def test_a_place_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    other.mkdir()
    os.chown(other, 1, 1)
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (other, tmp_path / "link"):
        done = unpacked(place)
        assert (done.returncode, done.stdout) == (1, "")
    assert list(other.iterdir()) == []
