"""What the archive of a database reaches, in words and as plain values, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from ..model.archive import Archive
from ..model.moment import local
from .words import bold, clean, counted

SLOW = timedelta(minutes=10)
"""A segment that waits longer than this is not just under way."""


def to_text(found: Archive, now: datetime, strong: bool = False) -> str:
    notices = (f"{bold('look at', strong)}: {clean(said)}: {hint}" for said, hint in attention(found, now))
    return "\n".join([f"one can go back to {reach(found, now)}", *notices])


def to_json(found: Archive) -> dict[str, Any]:
    """docs/reference/json.md has every field."""
    return {
        "reaches": [
            {"from": one.start.isoformat(), "to": one.end.isoformat(), "open": one.is_open} for one in found.spans
        ],
        "archived_at": found.last.isoformat() if found.last else None,
        "failed_at": found.failed_at.isoformat() if found.failed_at else None,
        "waiting": found.waiting,
        "leftover": found.leftover,
        "error": found.error,
    }


def reach(found: Archive, now: datetime) -> str:
    """From when to when, and how old the last segment is."""
    if not found.spans:
        return "nothing yet: the first full backup of the archive is not there"
    said = [f"from {local(one.start)} to {'now' if one.is_open else local(one.end)}" for one in found.spans]
    return f"any second {' and '.join(said)}; the last segment was archived {_age(found.last, now)}"


def attention(found: Archive, now: datetime) -> Iterator[tuple[str, str]]:
    """(what, what to do)."""
    log = "what pgbackrest says is in the log of PostgreSQL, /var/log/postgresql"
    if found.error:
        yield f"the archive cannot be read: {found.error}", "fab provision --check"
    for one, later in zip(found.spans, found.spans[1:], strict=False):
        yield f"a gap in the archive: nothing from {local(one.end)} to {local(later.start)}", log
    if found.spans and not found.spans[-1].is_open:
        end = local(found.spans[-1].end)
        yield f"a gap in the archive: nothing since {end}", "a full backup is taken within the hour, and mends it"
    if found.failed_at:
        yield f"archiving failed {_age(found.failed_at, now)}, {counted(found.waiting, 'segment')} wait", log
    elif found.waiting and found.last and now - found.last > SLOW:
        yield f"{counted(found.waiting, 'segment')} wait to be archived", log
    if found.leftover:
        yield "a run that was killed has left a copy of the cluster beside", "the next restore-db removes it"


def _age(at: datetime | None, now: datetime) -> str:
    return f"{max(0, (now - at).total_seconds()):.0f} s ago" if at else "never"
