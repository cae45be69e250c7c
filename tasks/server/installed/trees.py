"""What is in a folder of uploads: how many files, how many bytes, and what is no file that a backup can bring back.

Only for a process that sees the folder by `view.enter`: it works by names.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field

from ..files import KINDS, entry
from ..refused import Refused

SHOWN = 3


@dataclass
class Names:
    """How many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        return ", ".join(repr(one) if not one.isprintable() else one for one in self.first) + more


@dataclass
class Tree:
    """Counts are of regular files."""

    files: int = 0
    size: int = 0
    unread: Names = field(default_factory=Names)
    """Folders that could not be listed."""
    odd: list[tuple[str, str]] = field(default_factory=list)
    """(path, why) of what is left out."""
    several: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Inode -> the names it has here, of files that have more than one."""


def scan(path: str) -> Tree:
    """Refused for a link or a file where the folder should be; an empty Tree where nothing is."""
    there = entry(path)
    if there is None:
        return Tree()
    if there.kind != "directory":
        leads = f" to {there.target}" if there.target else ""
        raise Refused(f"{path} is a {there.kind}{leads}", "put a folder in its place")
    room, found, todo = os.statvfs(path), Tree(), [path]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as entries:
                for one in entries:
                    _count(one, found, todo, room.f_blocks * room.f_frsize)
        except OSError:
            found.unread.add(folder)
    _linked_from_elsewhere(found)
    return found


def _count(one: os.DirEntry[str], found: Tree, todo: list[str], whole: int) -> None:
    try:
        about = one.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(about.st_mode):
        todo.append(one.path)
    elif stat.S_ISREG(about.st_mode):
        if about.st_size > whole and about.st_blocks * 512 < about.st_size // 2:
            found.odd.append((one.path, f"says {about.st_size:,} bytes, more than its disk has"))
            return
        found.files += 1
        found.size += about.st_size
        if about.st_nlink > 1:
            found.several[about.st_ino].append(one.path)
    elif not stat.S_ISLNK(about.st_mode):
        found.odd.append((one.path, f"is a {KINDS.get(stat.S_IFMT(about.st_mode), 'thing of unknown kind')}"))


def _linked_from_elsewhere(found: Tree) -> None:
    """A name of a file that has another outside, and another owner than the folder: it may be anybody's."""
    for paths in found.several.values():
        try:
            about = os.lstat(paths[0])
            holder = os.lstat(os.path.dirname(paths[0]))
        except OSError:
            continue
        if about.st_nlink > len(paths) and about.st_uid != holder.st_uid:
            found.files -= len(paths)
            found.size -= about.st_size * len(paths)
            found.odd += [(path, "is a hard link to somebody else's file") for path in paths]
