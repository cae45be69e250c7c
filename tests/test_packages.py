"""Packages whose files went bad on a server's disk: never installed into a release, and named, also from uv's cache.

A real uv over an index of one folder; `environments/` and the cache share their files by hard links, as on a server.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from tasks.model.shell import script
from tests.local_hosts import Library, open_library

PROGRAM = Path(__file__).parent.parent / "templates" / "release" / "packages.py"
IDS = [f"2026112{number}-000000-{number:07x}" for number in range(9)]
HELD = {"till/__init__.py": "PRICE = 3\n" * 2000, "till/rates.py": "RATE = 19\n"}


def make_wheel(folder: Path, name: str, files: dict[str, str], *, wrong: str = "") -> None:
    """`wrong` names a file whose digest is not in its list as it should be."""
    held = {
        **files,
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path, text in held.items():
        sum = hashlib.sha256(b"another" if path == wrong else text.encode()).digest()
        rows.writerow([path, "sha256=" + base64.urlsafe_b64encode(sum).rstrip(b"=").decode(), len(text)])
    rows.writerow([f"{name}-1.dist-info/RECORD", "", ""])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for path, text in {**held, f"{name}-1.dist-info/RECORD": record.getvalue()}.items():
            wheel.writestr(path, text)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Library]:
    make_wheel(tmp_path / "index", "till", HELD)
    make_wheel(tmp_path / "index", "goods", {"goods.py": "GOODS = 1\n"})
    for library in open_library(tmp_path / "host"):
        library.ok("prepare_folders")
        yield library


def build(at: Library, id: str, *, fresh: str = "", packages: str = "till\n", installer: str = "uv") -> list[str]:
    """Makes `id` live with these packages; what people are warned of on the way."""
    place = at.folder / "staging" / id
    (place / ".release").mkdir(parents=True)
    (place / ".release" / "packages.py").write_text(PROGRAM.read_text())
    (place / "requirements.txt").write_text(packages)
    index = at.folder.parent / "index"
    alone = f"export UV_OFFLINE=1 UV_NO_INDEX=1 UV_FIND_LINKS={index} UV_CACHE_DIR={at.folder}/cache\n"
    alone += f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={index}\nPATH={Path(uv.find_uv_bin()).parent}:$PATH\n"
    said = script(("environment", id, fresh, "", installer, "", "", "", "")).text()
    result = at.session.run(alone + said, timeout=120)
    assert result.ok, (result.error, result.log)
    place.rename(at.folder / "releases" / id)
    (at.folder / "releases" / id / "release.json").write_text('{"state": "live"}')
    at.ok(script(("point_current", id)).text())
    return [mark.words[0] for mark in result.marks if mark.kind == "warn"]


def installed(at: Library, id: str, name: str) -> Path:
    return next((at.folder / "releases" / id / ".venv").glob(f"lib/python*/site-packages/{name}"))


def imported(at: Library, id: str) -> str:
    python = at.folder / "releases" / id / ".venv/bin/python"
    command = [python, "-Ic", "import till, till.rates; print(till.PRICE)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    write_in_place(path, bytes(data))


def truncate(path: Path) -> None:
    write_in_place(path, path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    write_in_place(path, b"")


def write_in_place(path: Path, data: bytes) -> None:
    """As a bad disk does: the same inode, so that every name of it is bad."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(data)


DAMAGE = {"flipped": flip, "truncated": truncate, "emptied": empty}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_package_is_mended_by_deploying_with_force(at: Library, how: str) -> None:
    build(at, IDS[0])
    bad = installed(at, IDS[0], "till/__init__.py")
    assert bad.stat().st_nlink > 1, "it shares no file with uv's cache, so this shows nothing"
    DAMAGE[how](bad)
    [warning] = build(at, IDS[1], fresh="fresh")
    assert "till (till/__init__.py is not what the package contains)" in warning
    assert installed(at, IDS[1], "till/__init__.py").read_text() == HELD["till/__init__.py"]
    assert imported(at, IDS[1]) == "3"
    build(at, IDS[2])  # the next deploy shares the good environment, not the bad one, which is there as well
    assert installed(at, IDS[2], "till/__init__.py").read_text() == HELD["till/__init__.py"]


def test_a_damaged_list_of_files_is_damage(at: Library) -> None:
    build(at, IDS[0])
    [kept] = (at.folder / "cache").glob("archive-v0/*/till-1.dist-info/RECORD")
    empty(kept)
    [warning] = build(at, IDS[1], fresh="fresh")
    assert "till (till-1.dist-info/RECORD cannot be read)" in warning
    assert "rates.py" in installed(at, IDS[1], "till-1.dist-info/RECORD").read_text()


def test_a_damaged_package_does_not_pass_into_the_environment_of_a_changed_lock(at: Library) -> None:
    """It starts as a hard-link copy of the live one."""
    build(at, IDS[0])
    truncate(installed(at, IDS[0], "till/rates.py"))
    [warning] = build(at, IDS[1], packages="till\ngoods\n")
    assert "till (till/rates.py is not what the package contains)" in warning
    assert installed(at, IDS[1], "till/rates.py").read_text() == HELD["till/rates.py"]


def test_a_package_that_is_published_with_a_wrong_list_can_be_deployed(at: Library) -> None:
    make_wheel(at.folder.parent / "index", "till", HELD, wrong="till/rates.py")
    build(at, IDS[0])
    assert imported(at, IDS[0]) == "3"


def test_a_package_that_is_damaged_also_when_fetched_again_is_not_released(at: Library) -> None:
    """The disk fails: every time another byte."""
    tool = at.folder.parent / "bin" / "uv"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\n{uv.find_uv_bin()} "$@" || exit\n'
        'case $1 in pip) for f in "$VIRTUAL_ENV"/lib/*/site-packages/till/rates.py; do date +%N >"$f"; done;; esac\n'
    )
    tool.chmod(0o755)
    place = at.folder / "staging" / IDS[0]
    (place / ".release").mkdir(parents=True)
    (place / ".release" / "packages.py").write_text(PROGRAM.read_text())
    (place / "requirements.txt").write_text("till\n")
    alone = f"export UV_OFFLINE=1 UV_NO_INDEX=1 UV_FIND_LINKS={at.folder.parent}/index UV_CACHE_DIR={at.folder}/cache\n"
    alone += f"PATH={tool.parent}:$PATH\n"
    error = at.refused(alone + script(("environment", IDS[0], "", "", "uv", "", "", "", "")).text())
    assert "till (till/rates.py is not what the package contains)" in error
    assert not list((at.folder / "environments").iterdir())


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_an_environment_made_with_force_shares_no_file_with_the_one_before(at: Library, installer: str) -> None:
    build(at, IDS[0], installer=installer)
    assert build(at, IDS[1], fresh="fresh", installer=installer) == []
    first, second = (installed(at, id, "..").resolve() for id in IDS[:2])
    assert first != second
    assert imported(at, IDS[1]) == "3"


def test_every_kind_of_damage_is_named_with_package_and_file(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("till", "goods"):
        make_wheel(tmp_path / "index", name, {f"{name}/a.py": "a = 1\n", f"{name}/b.py": "b = 1\n"})
        zipfile.ZipFile(tmp_path / "index" / f"{name}-1-py3-none-any.whl").extractall(site)
    (site / "till" / "a.py").unlink()
    flip(site / "till" / "b.py")
    (site / "goods-1.dist-info" / "RECORD").write_bytes(b"\xff\xfe not a list")
    command = [sys.executable, "-IS", str(PROGRAM), str(tmp_path), "note"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "goods\tgoods-1.dist-info/RECORD\tcannot be read\ntill\ttill/a.py\tis missing\n"
    assert [(one["file"], one["what"]) for one in json.loads((tmp_path / "differing.json").read_text())][1:] == [
        ("till/a.py", "is missing"),
        ("till/b.py", "is not what the package contains"),
    ]
