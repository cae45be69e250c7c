"""Configuration put back as a tree of root's alone has it: taken from there, never through a name that others gave.

The trees are /var/lib/fab-releases/configuration/NAME/ wanted (of a snapshot), before (this run) and kept (for --undo):
in each a path lies under its own name, or is a folder with `.absent` where nothing was.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence

from .. import files
from ..exported import exported
from ..values.site import Site
from .kept import ABSENT, keep, restore, store
from .looking import tell, text_of

FOLDER = "/var/lib/fab-releases/configuration"
LIMIT = 512 << 20


@exported
def look(site: Site, name: str, tree: str, path: str, owner: str, group: str, mode: str) -> None:
    """Tells the file as it would be: "OWNER:GROUP MODE" and its text; "absent"; nothing where the tree has it not."""
    tell(name, lambda: _told(_in(site, tree, path), lambda content: f"{owner}:{group} {mode}\n{text_of(content)}"))


@exported
def look_digest(site: Site, name: str, path: str, tree: str = "") -> None:
    """Tells of what nobody is to see whether it is the same; of the live one without a tree."""
    place = _in(site, tree, path) if tree else path
    tell(name, lambda: _told(place, lambda content: hashlib.sha256(content).hexdigest()))


@exported
def keep_all(site: Site, paths: Sequence[str]) -> None:
    """As they are now: complete on disk, or not there."""
    folder = _in(site, "", "")
    files.make_folders(folder, "root", "root", 0o700)
    aside = f"{folder}/before.part"
    shutil.rmtree(aside, ignore_errors=True)
    os.mkdir(aside, 0o700)
    for path in paths:
        store(aside + path, path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)
    os.rename(aside, f"{folder}/before")


@exported
def make(site: Site, tree: str, path: str, owner: str, group: str, mode: str) -> None:
    """As the tree has it; what it has not is left alone."""
    place = _in(site, tree, path)
    if os.path.lexists(f"{place}/{ABSENT}"):
        keep(path)
        files.remove(path)
    elif os.path.isfile(place) and not os.path.islink(place):
        keep(path)
        files.make_folders(os.path.dirname(path), "root", "root", 0o755)
        files.replace(path, files.read(place, LIMIT), owner, group, int(mode, 8))


@exported
def as_it_was(site: Site, paths: Sequence[str]) -> None:
    """Undo: what was there before this run, with its owner and mode; nothing where it did not get so far."""
    for path in paths:
        place = _in(site, "before", path)
        nothing = f"{place}/{ABSENT}"
        if os.path.lexists(nothing):
            keep(path)
            files.remove(path)
        elif os.path.lexists(place) and not os.path.isdir(place):
            keep(path)
            restore(place, path)


def _in(site: Site, tree: str, path: str) -> str:
    return f"{FOLDER}/{site.known_as}{'/' if tree else ''}{tree}{path}"


def _told(place: str, said: Callable[[bytes], str]) -> str:
    if files.entry(f"{place}/{ABSENT}"):
        return "absent"
    try:
        return said(files.read(place, LIMIT))
    except (FileNotFoundError, NotADirectoryError):
        return ""
