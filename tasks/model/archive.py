"""The archive of a database as its server tells of it: which moments can be reached, and what stands in the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Span:
    """Any moment from `start` to `end` can be reached, both included."""

    start: datetime
    end: datetime
    """When the last segment of it was archived."""
    is_open: bool
    """What is written now follows without a gap: until now can be reached as well."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    spans: tuple[Span, ...] = ()
    """Oldest first; between two of them something is missing."""
    last: datetime | None = None
    """When the last segment was archived."""
    failed_at: datetime | None = None
    """Archiving fails, and did so last at this time."""
    waiting: int = 0
    """Segments that are not archived yet."""
    leftover: bool = False
    """Of a run that was killed: the next one removes it."""
    error: str = ""
    """Why nothing is known of it."""

    @classmethod
    def from_json(cls, text: str) -> Archive:
        """What is no answer becomes an archive of which nothing is known."""
        try:
            told: dict[str, Any] = json.loads(text)
            return cls._from(told) if "spans" in told else cls(error=str(told.get("error", "it gave no answer")))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(error="it gave no answer")

    @classmethod
    def _from(cls, told: dict[str, Any]) -> Archive:
        spans = [
            Span(datetime.fromisoformat(one["start"]), datetime.fromisoformat(one["end"]), bool(one["open"]))
            for one in told["spans"]
        ]
        return cls(
            spans=tuple(spans),
            last=_time(told["last"]),
            failed_at=_time(told["failed_at"]),
            waiting=int(told["waiting"]),
            leftover=bool(told["leftover"]),
        )

    @property
    def reaches_now(self) -> bool:
        return bool(self.spans) and self.spans[-1].is_open

    def reaches(self, at: datetime) -> bool:
        return any(one.start <= at and (one.is_open or at <= one.end) for one in self.spans)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
