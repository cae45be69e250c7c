"""Whole trees in folders of other accounts: given to somebody, or copied out of one account's hands into another's.

Nothing is followed on the way. What is no folder, file or link is left where it is, and named.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import IO

from . import accounts, files
from .owners import group_number, user_number
from .refused import Refused

MOST_NAMED = 20
DEEPEST = 200
"""Folders in one another, each of which takes a descriptor."""
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def give(path: str, owner: str = "", group: str = "", *, shared: bool = False) -> list[str]:
    """A folder and all below it become theirs ("": as it is); what was left as it is.

    With `shared` the group may read and write all of it, and what is made in it later is the group's as well. Links
    stay as they are, and files with a second name: that may be somebody else's.
    """
    user, its_group = user_number(owner) if owner else -1, group_number(group) if group else -1
    left: list[str] = []

    def act(descriptor: int, there: os.stat_result) -> None:
        os.fchown(descriptor, user, its_group)
        if shared:
            os.fchmod(descriptor, _shared(there))

    def visit(below: str, above: int, name: str) -> bool:
        kind = _acted(name, above, act)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            left.append(f"{path}/{below}")
        return kind == stat.S_IFDIR

    with files.folder(path) as top:
        act(top, os.fstat(top))
        _each(top, "", visit)
    return left


def _shared(there: os.stat_result) -> int:
    mode = stat.S_IMODE(there.st_mode) | 0o060
    if stat.S_ISDIR(there.st_mode):
        return mode | 0o010 | stat.S_ISGID
    return mode | 0o010 if mode & 0o111 else mode


def _acted(name: str, above: int, act: Callable[[int, os.stat_result], None]) -> int:
    """Its kind, where it was acted on or is a link; 0 for all else, and for what has another name besides."""
    looked = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        there = os.fstat(looked)
        kind = stat.S_IFMT(there.st_mode)
        if kind == stat.S_IFLNK or (kind == stat.S_IFREG and there.st_nlink != 1):
            return kind if kind == stat.S_IFLNK else 0
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            return 0
        descriptor = os.open(f"/proc/self/fd/{looked}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(looked)
    try:
        act(descriptor, there)
    finally:
        os.close(descriptor)
    return kind


def _each(folder: int, place: str, visit: Callable[[str, int, str], bool], depth: int = 0) -> None:
    """`visit` is given each path below the top, a descriptor of its folder and its name, and says whether to go below
    it. What is gone meanwhile, or no folder any more, is passed by.
    """
    if depth > DEEPEST:
        raise Refused(f"{place[:200]}... lies below more than {DEEPEST} folders", "look who made them")
    for name in sorted(os.listdir(folder)):
        path = f"{place}/{name}" if place else name
        with suppress(FileNotFoundError, NotADirectoryError):
            if visit(path, folder, name):
                below = os.open(name, files.FOLDER, dir_fd=folder)
                try:
                    _each(below, path, visit, depth + 1)
                finally:
                    os.close(below)


def copy(source: str, target: str, reader: str, writer: str, group: str, left_out: Collection[str]) -> list[str]:
    """Read by one account and written by another, into a folder that is made anew; what was left out by itself.

    Owner is `writer`, group `group`, of which it must be. `left_out` are paths below `source`; with a "*" at the end,
    all that begin so. Refused where `reader` may not read something.
    """
    reading, writing = os.pipe()
    try:
        sending = accounts.begin_as(reader, lambda: _send(source, frozenset(left_out), reading, writing, reader))
        os.close(writing)
        writing = -1
        receiving = accounts.begin_as(writer, lambda: _receive(target, group, reading))
    finally:
        os.close(reading)
        if writing != -1:
            os.close(writing)
    try:
        receiving()
    finally:
        named = sending()
    return list(named)


def _send(source: str, left_out: Collection[str], reading: int, writing: int, reader: str) -> list[str]:
    os.close(reading)
    named: list[str] = []

    def visit(path: str, above: int, name: str) -> bool:
        if _is_among(path, left_out):
            return False
        try:
            kind = _sent(archive, path, name, above)
            if kind == stat.S_IFDIR:
                os.close(os.open(name, files.FOLDER, dir_fd=above))
        except PermissionError:
            hint = f"chown {reader} {source}/{path}, or remove it"
            raise Refused(f"{reader} may not read {source}/{path}", hint) from None
        if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            named.append(f"{source}/{path}")
        return kind == stat.S_IFDIR

    with (
        suppress(BrokenPipeError),  # who writes has ended, and says why
        os.fdopen(writing, "wb", buffering=1 << 20) as pipe,
        tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        files.folder(source) as top,
    ):
        _each(top, "", visit)
    return named[:MOST_NAMED]


def _is_among(path: str, left_out: Collection[str]) -> bool:
    return path in left_out or any(one.endswith("*") and path.startswith(one[:-1]) for one in left_out)


def _sent(archive: tarfile.TarFile, path: str, name: str, above: int) -> int:
    """Its kind; only folders, links and files are sent."""
    there = os.stat(name, dir_fd=above, follow_symlinks=False)
    kind = stat.S_IFMT(there.st_mode)
    entry = tarfile.TarInfo(path)
    entry.mode, entry.mtime = stat.S_IMODE(there.st_mode), there.st_mtime
    if kind == stat.S_IFDIR:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    elif kind == stat.S_IFLNK:
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=above)
        archive.addfile(entry)
    elif kind == stat.S_IFREG:
        with os.fdopen(os.open(name, OPEN, dir_fd=above), "rb") as file:
            now = os.fstat(file.fileno())
            entry.size = now.st_size
            if stat.S_ISREG(now.st_mode):
                archive.addfile(entry, _Padded(file))
    return kind


class _Padded:
    """A file that is cut while it is read, as logs are, has zeros at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int = -1, /) -> bytes:
        return self.file.read(size).ljust(size, b"\0")


def _receive(target: str, group: str, reading: int) -> None:
    """By the account whose `target` is: in its own folder, with its own rights."""
    number = group_number(group)
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target, exist_ok=True)
    os.chown(target, -1, number)
    with os.fdopen(reading, "rb") as pipe, tarfile.open(fileobj=pipe, mode="r|") as archive:
        folders = [entry for entry in archive if _received(archive, entry, target, number)]
    for entry in reversed(folders):  # what is below is there, and a mode without w hinders no longer
        os.chmod(f"{target}/{entry.name}", entry.mode)
        os.utime(f"{target}/{entry.name}", (entry.mtime, entry.mtime))


def _received(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: str, group: int) -> bool:
    """Whether it is a folder."""
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise Refused(f"{entry.name} leads out of what is copied", "run it again")
    path = f"{target}/{entry.name}"
    if entry.isdir():
        os.mkdir(path, 0o700)
        os.chown(path, -1, group)
        return True
    if entry.issym():
        os.symlink(entry.linkname, path)
        return False
    content = archive.extractfile(entry)
    assert content
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, entry.mode & 0o777)
        file.flush()
        with suppress(OSError):
            os.utime(descriptor, (entry.mtime, entry.mtime))
    return False
