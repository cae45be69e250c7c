"""What was fetched is put into folders that others may write: by descriptors, so that no name there leads elsewhere.

What we have fetched is root's alone: there owners are set, and then the very file gets a second name in its place.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

from .. import telling
from ..files import FOLDER

DEEPEST = 200
Owner = Callable[[os.stat_result], "tuple[int, int]"]


def put(source: int, target: int, owner: Owner, left_out: frozenset[str] = frozenset(), depth: int = 0) -> int:
    """How many files of the folder `source` are in the folder `target` now; what has the same name there is replaced,
    a folder filled.
    """
    count = 0
    for name in sorted(os.listdir(source)):
        there = os.stat(name, dir_fd=source, follow_symlinks=False)
        if name in left_out:
            continue
        if stat.S_ISDIR(there.st_mode):
            count += _put_folder(source, target, name, owner, depth)
        elif stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode):
            put_one(source, target, name, owner)
            count += stat.S_ISREG(there.st_mode)
    return count


def put_one(source: int, target: int, name: str, owner: Owner) -> None:
    """A regular file or a link."""
    there = os.stat(name, dir_fd=source, follow_symlinks=False)
    os.chown(name, *owner(there), dir_fd=source, follow_symlinks=False)
    is_link = stat.S_ISLNK(there.st_mode)
    if not is_link:
        os.chmod(name, there.st_mode & 0o777, dir_fd=source)
    _make_way(target, name)
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        if is_link:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            _copy(source, target, name)


def _put_folder(source: int, target: int, name: str, owner: Owner, depth: int) -> int:
    if depth == DEEPEST:
        telling.warn(f"a folder {name} that lies {DEEPEST} folders deep is left out")
        return 0
    inner = os.open(name, FOLDER, dir_fd=source)
    try:
        outer = _folder(target, name)
        try:
            there = os.fstat(inner)
            count = put(inner, outer, owner, depth=depth + 1)
            os.fchown(outer, *owner(there))
            os.fchmod(outer, stat.S_IMODE(there.st_mode) & 0o3777)
            return count
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _folder(target: int, name: str) -> int:
    """A descriptor of the folder there, made where there is none; what is no folder makes way."""
    for _ in range(3):  # somebody may exchange it meanwhile
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=target)
        try:
            return os.open(name, FOLDER, dir_fd=target)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            os.unlink(name, dir_fd=target)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)


def _make_way(target: int, name: str) -> None:
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=target)
        except IsADirectoryError:
            os.rename(name, f"{name}.before-recover", src_dir_fd=target, dst_dir_fd=target)


def _copy(source: int, target: int, name: str) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    with open(reading, "rb") as data:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=target), "wb") as file:
            shutil.copyfileobj(data, file, 1 << 20)
            there = os.fstat(reading)
            os.fchown(file.fileno(), there.st_uid, there.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
            os.utime(file.fileno(), ns=(there.st_atime_ns, there.st_mtime_ns))
