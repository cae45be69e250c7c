"""Touches names in a folder that another account may write, as that of a SQLite database is: the application's.

Whoever may write a folder may put a link there, or a FIFO, a device or a second name of somebody else's file, and
exchange them at any time. A path is walked by descriptors from "/", and a link is followed only where nobody but root
or this very account could have put it. In a folder that is ours alone everything may be as its owner wants it.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator
from urllib.parse import quote

from project_answer import Refused

LINKS = 40  # as many as the kernel follows
# Without O_PATH, which only Linux has, a folder must be readable to be gone through.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
COMPANIONS = ("-wal", "-shm", "-journal")
JOURNAL_OF_SEVERAL = bytes.fromhex("d9d505f920a163d7")  # ends one that names a file, which SQLite would remove
OPEN_FILES = Path("/proc/self/fd")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
LOOK = "Look who put it there, and move it away. Nothing was touched."


class Folder:
    """A folder that stays the same one, whatever is done to its path."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self.is_ours = is_ours_alone(os.fstat(descriptor))

    def status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def checked(self, name: str) -> os.stat_result | None:
        """Of a regular file whose names are all in this folder; None where nothing is. Refused for anything else."""
        there = self.status(name)
        if there is None or (self.is_ours and not stat.S_ISDIR(there.st_mode)):
            return there
        if not stat.S_ISREG(there.st_mode):
            kind = KINDS.get(stat.S_IFMT(there.st_mode), "something unknown")
            raise Refused(f"{self.path}/{name} is {kind}, in a folder that others may write.", LOOK)
        if there.st_nlink > 1 and there.st_nlink > self.names_of(there):
            raise Refused(f"{self.path}/{name} has another name elsewhere: it may be somebody else's file.", LOOK)
        return there

    def names_of(self, there: os.stat_result) -> int:
        """A swap that was cut off leaves two here."""
        found = (self.status(name) for name in self.names())
        return sum(one is not None and is_same(one, there) for one in found)

    def names(self) -> list[str]:
        with self.readable() as descriptor:
            return os.listdir(descriptor)

    @contextmanager
    def readable(self) -> Iterator[int]:
        """For what a descriptor that only stands for the place cannot do."""
        descriptor = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """What is there must have been looked at before; what is to be made must not be there."""
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=self.descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{self.path}/{name} was exchanged for something else just now.", LOOK)
        return descriptor

    def remove(self, name: str) -> None:
        """The name, and not what a link leads to."""
        there = self.status(name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise Refused(f"{self.path}/{name} is a folder, and should be a file.", LOOK)
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            pass

    def rename(self, name: str, new: str) -> None:
        os.replace(name, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def link(self, name: str, new: str) -> None:
        os.link(name, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor, follow_symlinks=False)

    def may_be_written(self) -> bool:
        return os.access(".", os.W_OK, dir_fd=self.descriptor)

    def free(self) -> int:
        status = os.statvfs(self.descriptor)
        return status.f_bavail * status.f_frsize


def is_ours_alone(status: os.stat_result) -> bool:
    """Whether only root and we may exchange names in it."""
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        return False
    return not status.st_mode & stat.S_IWGRP or is_our_own_group(status.st_gid)


def is_our_own_group(number: int) -> bool:
    """As Ubuntu gives each user: it is called as he is, and nobody else is in it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return (user.pw_gid, user.pw_name) == (number, group.gr_name) and not set(group.gr_mem) - {user.pw_name}


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


# --- the way there ---


def real_path(path: str | os.PathLike) -> Path:
    """As os.path.realpath, of a file that need not be there; refused for a link that somebody else may have put."""
    with walked(os.path.abspath(path)) as (folder, name):
        return Path(folder.path, name)


@contextmanager
def folder_of(path: str | os.PathLike) -> Iterator[Folder]:
    with walked(os.path.abspath(path)) as (folder, _):
        yield folder


@contextmanager
def walked(path: str) -> Iterator[tuple[Folder, str]]:
    """(folder, name) of what a path comes to in the end."""
    todo, names, links = parts(path), [""], 0
    here = [os.open("/", FOLDER)]
    try:
        while todo:
            name = todo.pop()
            target = link_at(here[-1], name, "/".join([*names, name]))
            if target is not None:
                links += 1
                if links > LINKS:
                    raise Refused(f"{path} goes through too many links.", LOOK)
                todo += parts(target)
                if target.startswith("/"):
                    up(here, names, len(names))
            elif name == "..":
                up(here, names, 1)
            elif todo:
                here.append(entered(here[-1], name, "/".join([*names, name])))
                names.append(name)
            else:
                yield Folder(here[-1], "/".join(names) or "/"), name
    finally:
        for descriptor in here:
            os.close(descriptor)


def parts(path: str) -> list[str]:
    return [one for one in path.split("/") if one not in ("", ".")][::-1]


def up(here: list[int], names: list[str], steps: int) -> None:
    for _ in range(min(steps, len(here) - 1)):
        os.close(here.pop())
        names.pop()


def entered(above: int, name: str, shown: str) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(f"{shown} is no folder that can be entered: {error.strerror}.", LOOK) from None


def link_at(above: int, name: str, shown: str) -> str | None:
    """Where it leads; None for what is no link, or is not there yet."""
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(there.st_mode):
        return None
    holder = os.fstat(above)
    in_sticky = bool(holder.st_mode & stat.S_ISVTX) and holder.st_uid in (0, os.geteuid())
    if there.st_uid not in (0, os.geteuid()) or not (is_ours_alone(holder) or in_sticky):
        raise Refused(f"{shown} is a link, in a folder that others may write.", LOOK)
    return os.readlink(name, dir_fd=above)


# --- SQLite, which opens by name ---


def check_database(path: str | os.PathLike) -> tuple[str, os.stat_result | None]:
    """Where it really is, and the file, where it is there. Also what SQLite opens beside it, and follows or obeys."""
    with walked(os.path.abspath(path)) as (folder, name):
        for ending in COMPANIONS:
            folder.checked(name + ending)
        journal = name + "-journal"
        if not folder.is_ours and folder.status(journal) and names_a_file(folder, journal):
            raise Refused(f"{folder.path}/{journal} names another file, which SQLite would remove.", LOOK)
        return f"{folder.path.rstrip('/')}/{name}", folder.checked(name)


def names_a_file(folder: Folder, journal: str) -> bool:
    with os.fdopen(folder.open(journal, os.O_RDONLY), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(JOURNAL_OF_SEVERAL)))
        return file.read() == JOURNAL_OF_SEVERAL


@contextmanager
def opened(path: Path, more: str = "", **how) -> Iterator[sqlite3.Connection]:  # noqa: F821
    """A connection to a database that is there, and to the very file that was looked at."""
    import sqlite3

    check_database(path)
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=rw{more}", uri=True, **how)
    try:
        check_opened(database, path)
        yield database
    finally:
        database.close()


def check_opened(database: sqlite3.Connection, path: str | os.PathLike) -> None:  # noqa: F821
    """The name may have been exchanged between our look and that of SQLite."""
    found = [file for _, name, file in database.execute("PRAGMA database_list") if name == "main"]
    real, there = check_database(path)
    if found != [real] or there is None or not is_open(there):
        raise Refused(f"{path} was exchanged for something else just now.", LOOK)


def is_open(there: os.stat_result) -> bool:
    if not OPEN_FILES.is_dir():
        return True  # not Linux: the path is what SQLite says of it
    for descriptor in os.listdir(OPEN_FILES):
        try:
            if is_same(os.fstat(int(descriptor)), there):
                return True
        except OSError:
            continue  # the listing's own
    return False
