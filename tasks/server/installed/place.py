"""Puts this code where timers and units find it: one folder for each hash of it, a link for each application."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress

from .. import files, telling
from ..exported import exported
from ..values.site import Site

FOLDER = "/usr/local/lib/fab-releases"
THIS = "this version"


@exported
def look(site: Site, name: str) -> None:
    """Tells whether what this application's timers start is the code that looks."""
    link = files.entry(f"{FOLDER}/{site.known_as}-server")
    target = link.target if link and link.kind == "symbolic link" else ""
    is_this = target == _folder(_code()) and _installed(f"{FOLDER}/{target}") == _code()
    telling.found(name, THIS if is_this else "another version" if target else "")


@exported
def make(site: Site) -> None:
    """The old one stays as long as a link of any application leads to it."""
    files.make_folders(FOLDER, "root", "root", 0o755)
    code = _code()
    target = f"{FOLDER}/{_folder(code)}"
    if _installed(target) != code:
        aside = f"{target}.{os.getpid()}.part"
        for inner, text in code.items():
            files.make_folders(os.path.dirname(f"{aside}/{inner}"), "root", "root", 0o755)
            files.replace(f"{aside}/{inner}", text, "root", "root", 0o644)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(aside, target)
    link = f"{FOLDER}/{site.known_as}-server"
    with suppress(FileNotFoundError):
        os.unlink(f"{link}.part")
    os.symlink(os.path.basename(target), f"{link}.part")
    os.rename(f"{link}.part", link)
    _tidy()


def _code() -> dict[str, bytes]:
    return _installed(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _installed(folder: str) -> dict[str, bytes]:
    """Path below the folder -> content, of programs; {} where there is none."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(place, name)
                found[os.path.relpath(path, folder)] = files.read(path)
    return found


def _folder(code: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for inner in sorted(code):
        whole.update(b"%s %d\n" % (inner.encode(), len(code[inner])) + code[inner])
    return f"server-{whole.hexdigest()[:24]}"


def _tidy() -> None:
    entries = list(os.scandir(FOLDER))
    used = {os.readlink(one.path) for one in entries if one.is_symlink()}
    for one in entries:
        if one.name.startswith("server-") and one.name not in used and one.is_dir(follow_symlinks=False):
            shutil.rmtree(one.path, ignore_errors=True)
