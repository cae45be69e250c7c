"""Where the rows of a lost server come from: its archive, which goes further, or the newest dump."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ._operator import confirm, now
from .model.errors import PreflightError
from .model.moment import age, local
from .report.safe import clean

ALIVE = 180
"""Seconds after its last segment in which a server may be alive: one that writes archives every minute."""


@dataclass(frozen=True, kw_only=True)
class LostArchive:
    dump: datetime
    """When the newest in the snapshot was taken."""
    until: datetime | None = None
    """When the last segment was archived; None where that cannot be read."""
    is_used: bool = False
    error: str = ""
    """Why it is not used, where that loses something."""
    said: str = ""


def decided(told: Mapping[str, str], *, without: bool, yes: bool) -> LostArchive | None:
    """None without an archive. PreflightError where it cannot be read and nobody has said to go on without: what it
    has is lost for good once the application writes again, and often it is just not mounted yet.
    """
    if "archive" not in told or "dump" not in told:
        return None
    dump, found = datetime.fromisoformat(told["dump"]), _parsed(told["archive"])
    passed = age(now() - dump)
    if without:
        said = f"without the archive: what was written after {local(dump)}, in the last {passed}, is lost"
        return LostArchive(dump=dump, error="not wanted", said=said)
    if "until" not in found:
        error = f"the archive cannot be read: {clean(found.get('error', 'it gave no answer'))}"
        lost = f"the newest dump is of {local(dump)}: without the archive the last {passed} before now are lost"
        hint = clean(found.get("hint", "the lines above say why"))
        if yes or not sys.stdin.isatty():
            raise PreflightError(f"{error}; {lost}", f"{hint}; is it gone for good: recover --without-archive")
        confirm(f"{error}\n{hint}: no is the answer while it may still be found.\nGo on without it? {lost}.", yes=False)
        return LostArchive(dump=dump, error=error, said=f"{error}; {lost}")
    return _compared(dump, datetime.fromisoformat(found["until"]), is_followed=bool(found.get("followed")))


def _parsed(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _compared(dump: datetime, until: datetime, *, is_followed: bool) -> LostArchive:
    if until <= dump:
        said = f"the archive ends at {local(until)}, and the newest dump is of {local(dump)}: the dump is taken"
        return LostArchive(dump=dump, until=until, error="it ends before the newest dump", said=said)
    gained = age(until - dump)
    said = (
        f"the database is taken from the archive, which goes to {local(until)}: {gained} further than the newest dump"
    )
    if (now() - until).total_seconds() < ALIVE:
        said += (
            "; its last segment is that new: is the lost server really dead? What it writes from now on is not taken"
        )
    if is_followed:
        said += (
            "; another cluster has archived there since: if that was more than a recover that was cut off, stop here"
        )
    return LostArchive(dump=dump, until=until, is_used=True, said=said)


def lost_of_it(lost: LostArchive, moment: str) -> str:
    """The loss, either way."""
    last = datetime.fromisoformat(moment)
    saved = age(last - lost.dump)
    return (
        f"the database is as it was at {local(last)}, its last archived commit (RPO): {saved} that the "
        "newest dump does not have; a deploy after the snapshot is not in it: name its commit with fab deploy --ref"
    )
