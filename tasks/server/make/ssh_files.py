"""What lies in an account's ~/.ssh: read and written by that account, so that no link there leads root anywhere."""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
from collections.abc import Iterable
from contextlib import suppress

from .. import accounts, files
from ..exported import exported
from ..owners import group_of
from ..refused import Refused
from ..values.site import Site
from .looking import tell, text_of

KINDS = ("ssh-", "ecdsa-", "sk-")


@exported
def look_keys(site: Site, name: str, user: str, like: str, more: tuple[str, ...]) -> None:  # noqa: ARG001
    """Tells which keys let nobody in as `user`, of those that should: `more`, and whatever lets in as `like`."""

    def missing() -> str:
        has = set(_keys(user))
        lacking = {_named(key) for key in (*more, *_keys(like)) if key and key not in has}
        return "\n".join(f"not let in: {key}" for key in sorted(lacking))

    tell(name, missing)


@exported
def make_keys(site: Site, user: str, like: str, more: tuple[str, ...]) -> None:  # noqa: ARG001
    """None is ever taken away."""
    has = set(_keys(user))
    _add(user, "authorized_keys", [key for key in (*more, *_keys(like)) if key and key not in has])


@exported
def look_known_hosts(site: Site, name: str, user: str, lines: tuple[str, ...]) -> None:  # noqa: ARG001
    """Tells those of `lines` that are there."""

    def known() -> str:
        there = _lines(user, "known_hosts")
        return "\n".join(line for line in lines if line in there)

    tell(name, known)


@exported
def make_known_hosts(site: Site, user: str, lines: tuple[str, ...]) -> None:  # noqa: ARG001
    there = _lines(user, "known_hosts")
    _add(user, "known_hosts", [line for line in lines if line not in there])


@exported
def look_git_key(site: Site, name: str, user: str) -> None:  # noqa: ARG001
    """Tells "there" of any key pair."""

    def there() -> str:
        folder = _folder(user)
        names = accounts.run_as(user, lambda: _names(folder)) if folder else ()
        return "there" if any(one.startswith("id_") and one.endswith(".pub") for one in names) else ""

    tell(name, there)


def _names(folder: str) -> list[str]:
    try:
        with files.folder(folder) as descriptor:
            return os.listdir(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _keys(user: str) -> list[str]:
    return [line for line in _lines(user, "authorized_keys") if any(f" {kind}" in f" {line}" for kind in KINDS)]


def _lines(user: str, name: str) -> list[str]:
    """Without comments; none where there is no account, or no such file."""
    folder = _folder(user)
    if not folder:
        return []
    content: str = accounts.run_as(user, lambda: _content(f"{folder}/{name}"))
    return [line for line in content.splitlines() if line and not line.startswith("#")]


def _content(path: str) -> str:
    try:
        return text_of(files.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _folder(user: str) -> str:
    """ "" where there is no such account. Refused for what is no folder: the account itself would follow it."""
    try:
        path = f"{pwd.getpwnam(user).pw_dir}/.ssh"
    except KeyError:
        return ""
    there = files.entry(path)
    if there and there.kind != "directory":
        raise Refused(f"{path} is not a folder, but a {there.kind}", files.AWAY)
    return path


def _add(user: str, name: str, lines: Iterable[str]) -> None:
    """Replaced as a whole, by its owner. What root or somebody else had made there becomes his first."""
    folder, group = _folder(user), group_of(user)
    path = f"{folder}/{name}"
    there = files.entry(folder)
    if there is None or there.owner != user or there.mode & 0o077:
        files.make_folder(folder, user, group, 0o700)
    there = files.entry(path)
    if there and there.kind == "regular file" and there.owner != user:
        files.own(path, user, group, 0o600)

    def add() -> None:
        before = _content(path)
        if before and not before.endswith("\n"):
            before += "\n"
        text = before + "".join(f"{line}\n" for line in lines)
        files.replace(path, text.encode("utf-8", "surrogateescape"), user, group, 0o600)

    accounts.run_as(user, add)


def _named(key: str) -> str:
    """As ssh-keygen -l has it: fingerprint and comment. "?" for what is no key."""
    words = key.split()
    with suppress(StopIteration, IndexError, ValueError):
        at = next(place for place, word in enumerate(words) if word.startswith(KINDS))
        digest = hashlib.sha256(base64.b64decode(words[at + 1], validate=True)).digest()
        comment = words[at + 2] if len(words) > at + 2 else "no"
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')} {comment}"
    return "?"
