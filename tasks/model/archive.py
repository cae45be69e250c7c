"""The archive of a database: where it is, and what its server says of it: which moments can be reached, what fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from .moment import age, local

FOLDER = r"/[A-Za-z0-9._+@/-]+"
BUCKET = rf"s3:https://([A-Za-z0-9.-]+)(:\d+)?/([a-z0-9][a-z0-9.-]+)({FOLDER})?"
PLACE = rf"{FOLDER}|{BUCKET}"
SLOW = timedelta(minutes=10)
"""A segment that waits longer than this is not just under way."""


@dataclass(frozen=True)
class Bucket:
    """An archive in a storage that speaks S3 over https."""

    host: str
    port: int
    name: str
    path: str

    @classmethod
    def of(cls, archive: str) -> Bucket | None:
        """None for a folder."""
        found = re.fullmatch(BUCKET, archive)
        if not found:
            return None
        host, port, name, path = found.groups()
        return cls(host, int((port or ":443")[1:]), name, (path or "").rstrip("/") or "/")

    @property
    def region(self) -> str:
        """As the storage's name has it ("s3.eu-central-1.amazonaws.com"); one that has no regions takes any."""
        labels = self.host.split(".")
        return labels[1] if labels[0] == "s3" and len(labels) > 3 else "us-east-1"


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

    def reach(self, now: datetime) -> str:
        """From when to when, and how old the last segment is."""
        if not self.spans:
            return "nothing yet: the first full backup of the archive is not there"
        said = [f"from {local(one.start)} to {'now' if one.is_open else local(one.end)}" for one in self.spans]
        return f"any second {' and '.join(said)}; {self._archived(now)}"

    def _archived(self, now: datetime) -> str:
        return f"the last segment was archived {age(now - self.last)} ago" if self.last else "no segment was archived"

    def attention(self, now: datetime) -> Iterator[tuple[str, str]]:
        """What somebody should look at: (what, what to do)."""
        log = "what pgbackrest says is in the log of PostgreSQL, /var/log/postgresql"
        waiting = "1 segment waits" if self.waiting == 1 else f"{self.waiting} segments wait"
        if self.error:
            yield f"the archive cannot be read: {self.error}", "fab provision --check"
        for one, later in zip(self.spans, self.spans[1:], strict=False):
            yield f"a gap in the archive: nothing from {local(one.end)} to {local(later.start)}", log
        if self.spans and not self.spans[-1].is_open:
            end = local(self.spans[-1].end)
            yield f"a gap in the archive: nothing since {end}", "a full backup is taken within the hour, and mends it"
        if self.failed_at:
            yield f"archiving failed {age(now - self.failed_at)} ago, {waiting}", log
        elif self.waiting and self.last and now - self.last > SLOW:
            yield f"{waiting} to be archived", log
        if self.leftover:
            yield "a run that was killed has left a copy of the cluster beside", "the next restore-db removes it"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
