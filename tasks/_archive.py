"""A moment of the archive as a backup: there already, taken now, or refused with what can be reached instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from ._operator import now
from ._scene import Scene, must
from .engine.execute import ask
from .model.archive import Archive
from .model.backup import Saved, at_or_before
from .model.errors import PreflightError
from .model.event import Note
from .model.moment import LATEST, Moment
from .remote import archive

HOURS = 12 * 3600
"""Seconds until a whole cluster is restored, replayed, and one database of it dumped."""


def at_that_second(
    at: Scene, saved: tuple[Saved, ...], facts: Mapping[str, str], wanted: Moment, *, take: bool
) -> Saved:
    """PreflightError, before anything is done, for a moment that the archive does not reach. Without `take` it says
    what would be taken: a backup of no size.
    """
    name = archive.name(wanted.at)
    there = next((one for one in saved if one.name == name or one.taken == wanted.at), None)
    if there:
        at.tell(Note(f"for {wanted.said}: {there.kind} {there.name}, which is there already"))
        return there
    found = archive.parse(facts)
    _reached(found, saved, wanted)
    if not take:
        at.tell(Note(f"before it, {name} is taken from the archive, beside the live database"))
        return Saved(name, "moment", wanted.at, "", 0, 0)
    at.tell(Note(f"for {wanted.said}: from the archive, restored beside the live database first"))
    (host, session), *_ = at.sessions.items()
    told = json.loads(must(ask(session, archive.take(wanted), timeout=HOURS), host).facts()["moment"])
    taken = datetime.fromisoformat(told["taken_at"])
    at.tell(Note(f"{told['name']}: {told['rows']:,} rows, as they were at {taken.astimezone():%Y-%m-%d %H:%M:%S %Z}"))
    return Saved(told["name"], "moment", taken, told["release"], told["bytes"], told["rows"], told["server_version"])


def _reached(found: Archive | None, saved: tuple[Saved, ...], wanted: Moment) -> None:
    if found is None:
        raise PreflightError("there is no archive on this server yet", "fab provision sets it up")
    if found.error:
        raise PreflightError(f"the archive cannot be read: {found.error}", "fab backups")
    latest = wanted.said == LATEST
    if found.spans and found.spans[-1].is_open if latest else found.reaches(wanted.at):
        return
    older = at_or_before(saved, wanted)
    raise PreflightError(
        f"{wanted.said} cannot be reached: {spans(found)}",
        f'the backup before it: fab restore-db --date "{older.taken.isoformat()}"' if older else "fab backups",
    )


def spans(found: Archive) -> str:
    """From when to when one can go back, in words."""
    if not found.spans:
        return "the archive reaches nothing before its first full backup"
    said = [f"from {_local(one.start)} to {'now' if one.is_open else _local(one.end)}" for one in found.spans]
    return f"any second {', and '.join(said)} can; the last segment was archived {_age(found.last)}"


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _age(last: datetime | None) -> str:
    return f"{max(0, (now() - last).total_seconds()):.0f} s ago" if last else "never"
