"""Accounts of the lost server, and who they are here: names stay, numbers differ between servers."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import files
from ..owners import group_of
from . import fetched


@dataclass(frozen=True)
class Owners:
    """Whose a file becomes, by the number it had there."""

    called: Mapping[str, str]
    """Name there -> name here, of accounts and of their groups."""
    otherwise: str
    """Whoever is known neither there nor here."""
    names: dict[str, dict[int, str]] = field(default_factory=dict)
    """passwd and group of the lost server: number -> name."""

    def of(self, user: int, group: int) -> tuple[int, int]:
        return (
            pwd.getpwnam(self._here("passwd", user)).pw_uid,
            grp.getgrnam(self._here("group", group)).gr_gid,
        )

    def _here(self, kind: str, number: int) -> str:
        if kind not in self.names:
            self.names[kind] = {int(one[2]): one[0] for one in entries(kind) if one[2].isdecimal()}
        name = self.names[kind].get(number, "")
        if name in self.called:
            return self.called[name]
        if name and _is_here(kind, name):
            return name
        return self.otherwise if kind == "passwd" else group_of(self.otherwise)


def entries(kind: str) -> list[list[str]]:
    """Of the lost server's passwd or group."""
    try:
        text = files.read(f"{fetched.place()}/etc/{kind}").decode(errors="replace")
    except FileNotFoundError:
        return []
    return [words for line in text.splitlines() if len(words := line.split(":")) > 3]


def home_there(user: str) -> str:
    """ "" where the lost server's passwd does not have it."""
    return next((one[5] for one in entries("passwd") if one[0] == user and len(one) > 5), "")


def _is_here(kind: str, name: str) -> bool:
    try:
        if kind == "passwd":
            pwd.getpwnam(name)
        else:
            grp.getgrnam(name)
    except KeyError:
        return False
    return True
