"""The only way to look at, make, replace, own or remove a name in a folder that another account may write.

A path is walked by descriptors from "/". A link is followed only where nobody but root, or this very account, could
have put it; in anybody else's folder it is refused by name. What is opened is looked at before anything is done to it,
and what is done to it is done through the descriptor: a name that is exchanged meanwhile changes nothing.
A file in such a folder must have one name only: a second one may be somebody else's file, linked there.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .owners import group_name, group_number, user_name, user_number
from .refused import Refused

LINKS = 40
"""As many links as the kernel follows before it says ELOOP (path_resolution(7))."""
LIMIT = 16 << 20
"""Bytes that are read into memory at the most."""
KINDS = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
AWAY = "move it away; look who put it there"


class Entry(NamedTuple):
    """What a name stands for, as lstat sees it."""

    kind: str
    owner: str
    group: str
    mode: int
    size: int
    target: str = ""
    """Of a link."""

    def __str__(self) -> str:
        """ "directory, deploy:app 755" """
        return f"{self.kind}, {self.owner}:{self.group} {self.mode:o}"


@contextmanager
def folder(path: str) -> Iterator[int]:
    """A descriptor of an existing folder. Refused for a link that somebody else may have put, OSError otherwise."""
    descriptor = _walk(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent(path: str) -> Iterator[tuple[int, str]]:
    """(descriptor of the folder that `path` is in, its last name)."""
    above, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", "..") or not path.startswith("/"):
        raise Refused(f"{path!r} is no absolute path of a file", "this is a fault of ours: report it")
    with folder(above) as descriptor:
        try:
            yield descriptor, name
        except OSError as error:  # names the whole path: a last name alone helps nobody
            if error.filename == name:
                error.filename = path
            raise


def entry(path: str) -> Entry | None:
    """None where nothing is, or a folder on the way is missing."""
    try:
        with parent(path) as (above, name):
            return _entry(above, name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read(path: str, limit: int = LIMIT) -> bytes:
    """A regular file's content. Refused for anything else, and for more than `limit` bytes."""
    with opened(path) as descriptor:
        return _content(descriptor, path, limit)


def state(path: str, limit: int = LIMIT) -> tuple[Entry, bytes]:
    """As `read`, with what the same file is: by its name it might be another one a moment later."""
    with opened(path) as descriptor:
        return _described(os.fstat(descriptor)), _content(descriptor, path, limit)


@contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of a regular file that has no other name, unless only root or we may write where it is."""
    with parent(path) as (above, name):
        descriptor = _open_regular(above, name, path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_folder(path: str, owner: str, group: str, mode: int) -> None:
    """It is there afterwards, and is theirs. The folders above it must be there."""
    with parent(path) as (above, name):
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        try:
            descriptor = os.open(name, FOLDER, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Refused(f"{path} is not a folder, but a {_kind(above, name)}", AWAY) from None
            raise
        try:
            _give(descriptor, owner, group, mode)
        finally:
            os.close(descriptor)


def make_folders(path: str, owner: str, group: str, mode: int) -> None:
    """As `make_folder`, with those above it that are missing; one that is there stays as it is."""
    there = existing(path)
    while there != path:
        following = path.removeprefix(there).strip("/").split("/")[0]
        there = f"{there.rstrip('/')}/{following}"
        make_folder(there, owner, group, mode)


def own(path: str, owner: str, group: str, mode: int) -> None:
    """An existing regular file becomes theirs, whatever is in it."""
    with opened(path) as descriptor:
        _give(descriptor, owner, group, mode)


def replace(path: str, content: bytes, owner: str, group: str, mode: int) -> None:
    """All of it or nothing, also when the power goes; a link at `path` is replaced, not followed.

    Refused where a folder is.
    """
    with parent(path) as (above, name):
        aside = _aside(above, name, path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(aside, flags, 0o600, dir_fd=above)
        try:
            try:
                _write(descriptor, content)
                _give(descriptor, owner, group, mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(aside, name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            _remove_quietly(above, aside)
            raise
        os.fsync(above)


def replace_link(path: str, target: str) -> None:
    """A symbolic link of ours, in the place of whatever but a folder is there."""
    with parent(path) as (above, name):
        aside = _aside(above, name, path)
        os.symlink(target, aside, dir_fd=above)
        try:
            os.rename(aside, name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            _remove_quietly(above, aside)
            raise


def remove(path: str) -> bool:
    """Whether there was something; a link is removed, not what it leads to. A folder must be empty."""
    try:
        with parent(path) as (above, name):
            there = _entry(above, name)
            if there is None:
                return False
            if there.kind == "directory":
                os.rmdir(name, dir_fd=above)
            else:
                os.unlink(name, dir_fd=above)
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def names(path: str) -> list[str]:
    """What is in a folder, sorted."""
    with folder(path) as descriptor:
        return sorted(os.listdir(descriptor))


def existing(path: str) -> str:
    """The path itself, or the nearest above it where something is."""
    while path != "/" and entry(path) is None:
        path = os.path.dirname(path)
    return path


def is_ours_alone(path: str) -> bool:
    """Whether nobody but root and this account could have made or exchanged the folder at `path`, or any above it."""
    try:
        descriptor = os.open("/", FOLDER)
        try:
            for name in [one for one in path.split("/") if one]:
                if not _is_trusted(os.fstat(descriptor)):
                    return False
                below = os.open(name, FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            return _is_trusted(os.fstat(descriptor), sticky=False)
        finally:
            os.close(descriptor)
    except OSError:
        return False


def _walk(path: str) -> int:
    """A descriptor of the folder at an absolute path; the caller closes it."""
    todo = [one for one in path.split("/") if one][::-1]
    here, names, links = [os.open("/", FOLDER)], [""], 0
    try:
        while todo:
            name = todo.pop()
            if name in (".", ".."):
                _up(here, names, 1 if name == ".." else 0)
                continue
            shown = "/".join([*names, name])
            target = _link(here[-1], name, shown)
            if target is None:
                here.append(_enter(here[-1], name, shown))
                names.append(name)
                continue
            links += 1
            if target.startswith("/"):
                _up(here, names, len(names))
            todo += [one for one in target.split("/") if one][::-1] if links <= LINKS else _too_many(path)
        return here.pop()
    finally:
        for descriptor in here:
            os.close(descriptor)


def _up(here: list[int], names: list[str], steps: int) -> None:
    """ "/" has nothing above it."""
    for _ in range(min(steps, len(here) - 1)):
        os.close(here.pop())
        names.pop()


def _enter(above: int, name: str, shown: str) -> int:
    """Where we may go through and not look, a descriptor that is good for what is below."""
    try:
        try:
            return os.open(name, FOLDER, dir_fd=above)
        except PermissionError:
            return os.open(name, FOLDER | os.O_PATH, dir_fd=above)
    except OSError as error:
        error.filename = shown
        raise


def _too_many(path: str) -> list[str]:
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _link(above: int, name: str, shown: str) -> str | None:
    """Where a link leads; None for what is no link. Refused in a folder that somebody else may write."""
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
    except OSError as error:
        error.filename = shown
        raise
    if not stat.S_ISLNK(there.st_mode):
        return None
    holder = os.fstat(above)
    # A link's own owner counts too: in /tmp, which belongs to root, anybody may have put it.
    if not _is_trusted(holder) or there.st_uid not in (0, os.geteuid()):
        raise Refused(f"{shown} is a link, in a folder that {user_name(holder.st_uid)} may write", AWAY)
    return _target(above, name)


def _is_trusted(status: os.stat_result, *, sticky: bool = True) -> bool:
    """Whether only root and we may exchange names in a folder; in a `sticky` one that all may write, those of ours."""
    if status.st_uid not in (0, os.geteuid()):
        return False
    open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not open_to_others or (sticky and bool(status.st_mode & stat.S_ISVTX))


def _entry(above: int, name: str) -> Entry | None:
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _described(there, _target(above, name) if stat.S_ISLNK(there.st_mode) else "")


def _described(there: os.stat_result, target: str = "") -> Entry:
    kind = KINDS.get(stat.S_IFMT(there.st_mode), "unknown kind")
    owner, group = user_name(there.st_uid), group_name(there.st_gid)
    return Entry(kind, owner, group, stat.S_IMODE(there.st_mode), there.st_size, target)


def _target(above: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=above)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Refused(f"{name} is exchanged while it is looked at", AWAY) from None


def _aside(above: int, name: str, path: str) -> str:
    """A name beside, for what is to be renamed over `name`. Refused where a folder is."""
    there = _entry(above, name)
    if there and there.kind == "directory":
        raise Refused(f"{path} is a folder, and should be a file", AWAY)
    return f".{name[:100]}.{secrets.token_hex(6)}"


def _kind(above: int, name: str) -> str:
    there = _entry(above, name)
    return there.kind if there else "name that is gone"


def _open_regular(above: int, name: str, path: str, flags: int) -> int:
    """O_PATH first: to open a FIFO or a device for good is already to do something to it. Then by its name again, and
    compared: an account that root has become may not open what /proc/self/fd leads to (proc(5), dumpable).
    """
    looked = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        there = os.fstat(looked)
        if not stat.S_ISREG(there.st_mode):
            kind = KINDS.get(stat.S_IFMT(there.st_mode), "unknown kind")
            raise Refused(f"{path} is not a regular file, but a {kind}", AWAY)
        if there.st_nlink != 1 and not _is_trusted(os.fstat(above)):
            raise Refused(f"{path} has {there.st_nlink} names: it may be somebody else's file", AWAY)
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(looked)
    if not os.path.samestat(there, os.fstat(descriptor)):
        os.close(descriptor)
        raise Refused(f"{path} was exchanged while it was opened", AWAY)
    return descriptor


def _content(descriptor: int, path: str, limit: int) -> bytes:
    pieces, size = [], 0
    while piece := os.read(descriptor, 1 << 20):
        size += len(piece)
        if size > limit:
            raise Refused(f"{path} is larger than {limit:,} bytes", "look what fills it")
        pieces.append(piece)
    return b"".join(pieces)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _give(descriptor: int, owner: str, group: str, mode: int) -> None:
    """Owner before mode: chown takes away setgid. Only root gives away; others find that it is theirs already."""
    user, its_group = user_number(owner), group_number(group)
    there = os.fstat(descriptor)
    if (there.st_uid, there.st_gid) != (user, its_group):
        os.fchown(descriptor, user, its_group)
    os.fchmod(descriptor, mode)


def _remove_quietly(above: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=above)
