"""The archive of a database for people and as plain values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..model.archive import Archive
from .words import bold, clean


def to_text(found: Archive, now: datetime, strong: bool = False) -> str:
    notices = (f"{bold('look at', strong)}: {clean(said)}: {clean(hint)}" for said, hint in found.attention(now))
    reach = [] if found.error else [f"one can go back to {clean(found.reach(now))}"]
    return "\n".join([*reach, *notices])


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
