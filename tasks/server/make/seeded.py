"""What git has in a folder that is shared: put there once, where the application's account may plant what it likes."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .. import files, telling
from ..exported import exported
from ..values.site import Site

DEEPEST = 200
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@exported
def fill(site: Site, source: str, target: str) -> None:  # noqa: ARG001
    """What is there stays as it is; nothing there is followed. The group may write what is new."""
    left: list[str] = []
    with files.folder(source) as reading, files.folder(target) as writing:
        _fill(reading, writing, target, left)
    if left:
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        telling.warn(f"not all files that git has could be copied: {left[0]}{more}")


def _fill(source: int, target: int, shown: str, left: list[str], depth: int = 0) -> None:
    for name in sorted(os.listdir(source)):
        path = f"{shown}/{name}"
        there = os.stat(name, dir_fd=source, follow_symlinks=False)
        try:
            if stat.S_ISDIR(there.st_mode):
                _folder(source, target, name, path, left, depth)
            elif stat.S_ISLNK(there.st_mode):
                with suppress(FileExistsError):
                    os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISREG(there.st_mode):
                with suppress(FileExistsError):
                    _copy(source, target, name)
        except OSError as error:
            left.append(f"{path}: {error.strerror}")


def _folder(source: int, target: int, name: str, path: str, left: list[str], depth: int) -> None:
    if depth == DEEPEST:
        left.append(f"{path} lies below {DEEPEST} folders")
        return
    made = False
    with suppress(FileExistsError):
        os.mkdir(name, 0o770, dir_fd=target)
        made = True
    inner = os.open(name, files.FOLDER, dir_fd=source)
    try:
        outer = os.open(name, files.FOLDER, dir_fd=target)
        try:
            if made:
                os.fchmod(outer, os.fstat(outer).st_mode & stat.S_ISGID | os.fstat(inner).st_mode & 0o777 | 0o770)
            _fill(inner, outer, path, left, depth + 1)
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _copy(source: int, target: int, name: str) -> None:
    with open(os.open(name, READ, dir_fd=source), "rb") as data:
        mode = os.fstat(data.fileno()).st_mode & 0o777 | 0o660
        with open(os.open(name, WRITE, 0o600, dir_fd=target), "wb") as file:
            while block := data.read(1 << 20):
                file.write(block)
            os.fchmod(file.fileno(), mode | (0o010 if mode & 0o111 else 0))
