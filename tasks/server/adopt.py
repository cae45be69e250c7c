"""A flat checkout becomes a release: what lies in folders of others is read and written by those it belongs to."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import PurePosixPath

from . import accounts, files, telling, trees
from .exported import exported
from .refused import Refused
from .values.site import Site

RENAME_EXCHANGE = 2  # linux/fs.h


@exported
def copy(site: Site, source: str, target: str, user: str, group: str, left_out: tuple[str, ...]) -> None:  # noqa: ARG001
    """By the owner of `source`, who may read it, to `user`. `left_out` as of `trees.copy`."""
    _tell_left(trees.copy(source, target, _owner(source), user, group, left_out))


@exported
def ignore(site: Site, checkout: str, names: tuple[str, ...]) -> None:  # noqa: ARG001
    """git in the checkout sees nothing of these at its top."""
    path = f"{checkout}/.git/info/exclude"

    def add() -> None:
        there = files.entry(path)
        before = files.read(path).decode("utf-8", "surrogateescape") if there else ""
        more = [f"/{name}" for name in names if f"/{name}" not in before.splitlines()]
        if more:
            text = before + ("" if before.endswith("\n") or not before else "\n") + "\n".join(more) + "\n"
            own = _name(os.geteuid())
            group = there.group if there else str(os.getegid())
            files.replace(path, text.encode("utf-8", "surrogateescape"), own, group, 0o644)

    if files.entry(os.path.dirname(path)):
        accounts.run_as(_owner(checkout), add)


@exported
def take_folder(site: Site, place: str, path: str, user: str, group: str) -> None:
    """A folder of the checkout changes places with a link to where it will be: no upload finds neither.

    `user` is whom the old services run as, who keeps it; `group` may read and write all of it.
    """
    old, new = f"{place}/{path}", f"{site.shared}/{path}"
    there, at = files.entry(old), files.entry(new)
    if at and at.target == new:  # an earlier run died here
        files.remove(new)
        at = None
    if there is None:
        files.make_folders(os.path.dirname(new), "root", "root", 0o755)
        files.make_folder(new, "root", group, 0o2770)
    elif there.target != new and not _are_one(old, new):
        files.make_folders(os.path.dirname(new), "root", "root", 0o755)
        files.remove(new)
        files.replace_link(new, new)
        try:
            _exchange(old, new)
        except OSError as error:
            files.remove(new)
            raise Refused(f"{old} could not be moved to {new}: {error.strerror}", "are both on one disk?") from None
    keeper = user if user != "root" and there else ""
    _tell_left(trees.give(new, keeper, group, shared=True))


@exported
def leave_folder(site: Site, place: str, path: str) -> None:
    """Undo of `take_folder`."""
    old, new = f"{place}/{path}", f"{site.shared}/{path}"
    there, at = files.entry(old), files.entry(new)
    if there and there.target == new and at and at.kind == "directory":
        _exchange(old, new)
        files.remove(new)


@exported
def own_folder(site: Site, path: str, user: str, group: str) -> None:
    """Nobody else writes in that folder of shared_dirs any more."""
    _tell_left(trees.give(f"{site.shared}/{path}", user, group, shared=True))


@exported
def take_file(site: Site, place: str, path: str, user: str, group: str) -> None:
    """A copy, byte for byte, read by whose the checkout is; one that is there already stays."""
    old, new = f"{place}/{path}", f"{site.shared}/{path}"
    if files.entry(new):
        return
    content = accounts.run_as(_owner(place), lambda: files.read(old))
    files.make_folders(os.path.dirname(new), "root", "root", 0o755)
    files.replace(new, content, user, group, 0o640)


@exported
def carry_schedule(site: Site, place: str, service: str, user: str) -> None:
    """What beat remembers of its last runs, where ours remembers nothing yet."""
    folder = f"/var/lib/{site.known_as}-{service}"
    group = _group_of(user)
    if files.entry(folder) and _schedules(folder):
        return
    found: dict[str, bytes] = accounts.run_as(
        _owner(place), lambda: {name: files.read(f"{place}/{name}") for name in _schedules(place)}
    )
    if found:
        files.make_folder(folder, user, group, 0o755)
    for name, content in found.items():
        files.replace(f"{folder}/{name}", content, user, group, 0o600)


def _schedules(folder: str) -> list[str]:
    with files.folder(folder) as descriptor:
        names = [name for name in os.listdir(descriptor) if name.startswith("celerybeat-schedule")]
    kinds = {name: files.entry(f"{folder}/{name}") for name in names}
    return sorted(name for name, entry in kinds.items() if entry and entry.kind == "regular file")


def _are_one(old: str, new: str) -> bool:
    """The same folder, mounted at both places."""
    try:
        with files.folder(old) as one, files.folder(new) as other:
            return os.path.samestat(os.fstat(one), os.fstat(other))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _exchange(one: str, other: str) -> None:
    """In one moment, in folders that nobody can exchange meanwhile."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with files.parent(one) as (above, name), files.parent(other) as (other_above, other_name):
        words = (above, os.fsencode(name), other_above, os.fsencode(other_name), RENAME_EXCHANGE)
        if libc.renameat2(*words):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), one, None, other)


def _owner(folder: str) -> str:
    with files.folder(folder) as descriptor:
        return _name(os.fstat(descriptor).st_uid)


def _name(number: int) -> str:
    """Refused for a number that is no account's: nobody can act as it."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        raise Refused(f"what belongs to {number} belongs to nobody here", "chown it to an account") from None


def _group_of(user: str) -> str:
    return str(pwd.getpwnam(user).pw_gid)


def _tell_left(paths: Iterable[str]) -> None:
    """What is neither folder, file nor link, or has a second name."""
    left = [str(PurePosixPath(path)) for path in paths]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        telling.warn(f"left as it is, for it is no file with one name: {', '.join(left[:5])}{more}")
