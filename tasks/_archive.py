"""A moment of the archive as a backup: there already, taken now, or refused with what can be reached instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from ._operator import now
from ._scene import Scene
from .model.archive import Archive
from .model.backup import Saved
from .model.errors import PreflightError
from .model.event import Note
from .model.moment import LATEST, Moment, at_or_before, local
from .remote import archive

HOURS = 12 * 3600
"""Seconds until a whole cluster is restored, replayed, and one database of it dumped."""


def at_that_second(
    at: Scene, saved: tuple[Saved, ...], facts: Mapping[str, str], wanted: Moment, *, take: bool
) -> Saved:
    """PreflightError, before anything is done, for a moment that the archive does not reach. Without `take` it says
    what would be taken: a backup of no size.
    """
    name, found = archive.name(wanted.at), archive.parse(facts)
    same = (one for one in saved if one.name == name or (one.taken == wanted.at and not _has(found, wanted)))
    if there := next(same, None):
        at.tell(Note(f"for {wanted.said}: {there.kind} {there.name}, which is there already"))
        return there
    _insist(found, saved, wanted)
    if found and found.leftover:
        at.tell(Note("a run that was killed has left a copy of the cluster beside: it is removed first", warning=True))
    if not take:
        at.tell(Note(f"before it, {name} is taken from the archive, beside the live database"))
        return Saved(name, "moment", wanted.at, "", 0, 0)
    at.tell(Note(f"for {wanted.said}: from the archive, restored beside the live database first"))
    told = json.loads(at.answer(archive.take(wanted), HOURS).facts()["moment"])
    taken = datetime.fromisoformat(told["taken_at"])
    at.tell(Note(f"{told['name']}: {told['rows']:,} rows, as they were at {local(taken)}"))
    return Saved(told["name"], "moment", taken, told["release"], told["bytes"], told["rows"], told["server_version"])


def _has(found: Archive | None, wanted: Moment) -> bool:
    if not found:
        return False
    return found.reaches_now if wanted.said == LATEST else found.reaches(wanted.at)


def _insist(found: Archive | None, saved: tuple[Saved, ...], wanted: Moment) -> None:
    if found is None:
        raise PreflightError("there is no archive on this server yet", "fab provision sets it up")
    if found.error:
        raise PreflightError(f"the archive cannot be read: {found.error}", "fab backups")
    if _has(found, wanted):
        return
    older = at_or_before(saved, wanted)
    raise PreflightError(
        f"{wanted.said} cannot be reached: one can go back to {found.reach(now())}",
        f'the backup before it: fab restore-db --date "{older.taken.isoformat()}"' if older else "fab backups",
    )
