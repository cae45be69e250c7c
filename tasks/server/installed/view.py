"""What others may write, seen by this process as it lies: no link in it leads anywhere, nothing in it can be changed.

A program that is given paths (restic) reads the names of a folder one by one, and whoever may write there can exchange
a folder for a link meanwhile. In a mount namespace of our own such a folder is mounted over itself: read-only, without
devices, and so that the kernel follows no link (mount_setattr(2), Linux 5.14).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

from ..refused import Refused

NEW_NAMESPACE, PRIVATE, RECURSIVE = 0x20000, 1 << 18, 0x4000  # <linux/sched.h>, <linux/mount.h>
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # the same on every architecture since Linux 5.1
CLONE, CLOEXEC, EMPTY_PATH, WHOLE = 1, os.O_CLOEXEC, 0x1000, 0x8000
FROM_DESCRIPTOR = 4
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, NO_LINKS = 1, 2, 4, 8, 0x200000
HERE = -100
LINKS = 40


def enter(paths: Iterable[str], writable: Iterable[str] = ()) -> None:
    """From here on, and for what is started from here. `writable` are folders that stay as they are.

    Refused where the kernel does not let us: then nothing may be read by its name.
    """
    shut = outermost(above for path in paths if (above := open_to_others(path)))
    try:
        _call(_libc().unshare(NEW_NAMESPACE), "a mount namespace")
        _call(_libc().mount(b"none", b"/", None, RECURSIVE | PRIVATE, None), "/")
        kept = {path: _clone(path) for path in writable if any(_is_in(path, one) for one in shut)}
        for path in shut:
            tree = _clone(path)
            flags = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS | NO_LINKS
            _set(tree, flags, path)
            _move(tree, path)
        for path, tree in kept.items():
            _move(tree, path)
    except OSError as error:
        known = "Linux 5.14 or newer is needed, and a container that may mount"
        raise Refused(f"{error.filename} cannot be read safely: {error.strerror}", known) from None


def open_to_others(path: str) -> str:
    """The first folder on the way to an existing path where somebody else may exchange names; "" for none."""
    todo, here, links = path.strip("/").split("/")[::-1], "/", 0
    while True:
        try:
            about = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if about.st_uid != 0 or links > LINKS:
                return os.path.dirname(here)
            above, target = os.path.dirname(here), os.readlink(here)
            whole = os.path.normpath(os.path.join(above, target, *reversed(todo)))
            todo, here = whole.strip("/").split("/")[::-1], "/"
            continue
        if not stat.S_ISDIR(about.st_mode):
            return ""
        if about.st_uid != 0 or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return here
        if not todo or not todo[-1]:
            return ""
        here = os.path.join(here, todo.pop())


def outermost(paths: Iterable[str]) -> list[str]:
    """Without those that are inside of others."""
    found = sorted(set(paths))
    return [path for path in found if not any(path != other and _is_in(path, other) for other in found)]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _clone(path: str) -> int:
    flags = CLONE | CLOEXEC | WHOLE
    return int(_call(_libc().syscall(OPEN_TREE, HERE, os.fsencode(path), flags), path))


def _set(tree: int, flags: int, path: str) -> None:
    told = struct.pack("QQQQ", flags, 0, 0, 0)
    _call(_libc().syscall(MOUNT_SETATTR, tree, b"", EMPTY_PATH | WHOLE, told, ctypes.c_size_t(len(told))), path)


def _move(tree: int, path: str) -> None:
    _call(_libc().syscall(MOVE_MOUNT, tree, b"", HERE, os.fsencode(path), FROM_DESCRIPTOR), path)
    os.close(tree)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number), path)
    return result
