"""A folder that the application writes: its account's and its group's, in which the web server is."""

from __future__ import annotations

import grp
import os
import pwd
import stat

from .. import files
from ..exported import exported
from ..refused import Refused
from ..values.names import WEB_SERVER
from ..values.site import Site

DEEPEST = 300
"""A descriptor is open for each, and a process may have 1024."""


@exported
def regroup(site: Site, path: str, group: str, users: tuple[str, ...]) -> None:  # noqa: ARG001
    """What in `path` is of the web server's group becomes `group`'s; only what root or one of `users` owns.

    Done through descriptors, in a folder that its application writes to meanwhile. Nothing where no folder is.
    """
    try:
        with files.folder(path) as top:
            old, new = grp.getgrnam(WEB_SERVER).gr_gid, grp.getgrnam(group).gr_gid
            _regroup(top, old, new, {0, *(pwd.getpwnam(user).pw_uid for user in users)})
    except (FileNotFoundError, NotADirectoryError):
        return


def _regroup(folder: int, old: int, new: int, owners: set[int], depth: int = 0) -> None:
    if depth > DEEPEST:
        raise Refused(f"folders lie in one another more than {DEEPEST} times", "look who made them; then remove them")
    for name in os.listdir(folder):
        try:
            there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            continue
        try:
            status = os.fstat(there)
            is_folder = stat.S_ISDIR(status.st_mode)
            one_name = is_folder or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
            if one_name and status.st_gid == old and status.st_uid in owners:
                os.chown(f"/proc/self/fd/{there}", -1, new)  # the mode stays, also setgid of a folder
            if is_folder:
                below = os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    _regroup(below, old, new, owners, depth + 1)
                finally:
                    os.close(below)
        finally:
            os.close(there)
