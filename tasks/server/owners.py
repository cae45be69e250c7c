"""Names of accounts and groups, and their numbers; who has no name here is known by the number."""

from __future__ import annotations

import grp
import pwd

from .refused import Refused


def user_number(name: str) -> int:
    """Refused where there is no such account."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        if name.isdecimal():
            return int(name)
        raise Refused(f"there is no account {name}", "fab provision makes it") from None


def group_number(name: str) -> int:
    """Refused where there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdecimal():
            return int(name)
        raise Refused(f"there is no group {name}", "fab provision makes it") from None


def group_of(user: str) -> str:
    """The name of an account's own group. KeyError where there is no such account."""
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
