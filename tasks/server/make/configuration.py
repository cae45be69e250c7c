"""Files of the configuration as a snapshot has them, and as they were before that: put where accounts may write.

What was fetched, and what is kept, lies in a folder of root's alone, each file under its own path; a folder with
`.absent` stands for none. Names in it were made by others, links too: `files` follows none of those.
"""

from __future__ import annotations

import hashlib
import os
import shutil

from .. import files
from ..exported import exported
from ..values.site import Site
from .kept import ABSENT, LARGEST, keep, store
from .looking import tell, text_of

FOLDER = "/var/lib/fab-releases/configuration"
GONE = "absent"


@exported
def look(site: Site, name: str, tree: str, path: str, owner: str, group: str, mode: str) -> None:
    """Tells it as it would be, "OWNER:GROUP MODE" and the text; "absent" of what is to go; nothing where the tree does
    not have it.
    """

    def then() -> str:
        if _is_gone(place := _in(site, tree, path)):
            return GONE
        content = _content(place)
        return "" if content is None else f"{owner}:{group} {mode}\n{text_of(content)}"

    tell(name, then)


@exported
def look_digest(site: Site, name: str, path: str, tree: str = "") -> None:
    """As `look`, of what nobody is to see; without a tree, of what is live."""
    place = _in(site, tree, path) if tree else path

    def digest() -> str:
        if tree and _is_gone(place):
            return GONE
        content = _content(place)
        return "" if content is None else hashlib.sha256(content).hexdigest()

    tell(name, digest)


@exported
def keep_all(site: Site, paths: tuple[str, ...]) -> None:
    """As they are now: complete, or not there."""
    whole = _in(site, "before", "")
    part = f"{whole}.part"
    files.make_folders(os.path.dirname(whole), "root", "root", 0o700)
    shutil.rmtree(part, ignore_errors=True)
    os.mkdir(part, 0o700)
    for path in paths:
        store(f"{part}{path}", path)
    os.sync()
    os.rename(part, whole)


@exported
def make(site: Site, tree: str, path: str, owner: str, group: str, mode: str) -> None:
    """As the tree has it; what it has not is left alone. Group "": of the file that is there, else of the tree's."""
    if _is_gone(place := _in(site, tree, path)):
        keep(path)
        files.remove(path)
        return
    content = _content(place)
    there = files.entry(path) or files.entry(place)
    if content is not None and there:
        keep(path)
        files.make_folders(os.path.dirname(path), "root", "root", 0o755)
        files.replace(path, content, owner, group or there.group, int(mode, 8))


@exported
def put_back(site: Site, paths: tuple[str, ...]) -> None:
    """Undo: what was there before this run, with its owner and mode."""
    for path in paths:
        place = _in(site, "before", path)
        there = files.entry(place)
        if there is None:
            continue
        keep(path)
        if _is_gone(place):
            files.remove(path)
        elif there.kind == "symbolic link":
            files.replace_link(path, there.target)
        else:
            there, content = files.state(place, LARGEST)
            files.replace(path, content, there.owner, there.group, there.mode & 0o777)


def _in(site: Site, tree: str, path: str) -> str:
    return f"{FOLDER}/{site.known_as}/{tree}{path}"


def _is_gone(place: str) -> bool:
    there = files.entry(place)
    return bool(there and there.kind == "directory" and files.entry(f"{place}/{ABSENT}"))


def _content(place: str) -> bytes | None:
    """None for what is no file."""
    there = files.entry(place)
    return files.read(place, LARGEST) if there and there.kind == "regular file" else None
