"""One thing that was looked at on a host: how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "look", "bad", "skipped"]
"""look: somebody should; bad: a deploy could not or should not start; skipped: it could not be asked yet."""


@dataclass(frozen=True)
class Finding:
    what: str
    """A stable name, as "disk"."""
    state: State
    value: str
    hint: str = ""
    """What to do; "" when nothing."""


def ok(what: str, value: str) -> Finding:
    return Finding(what, "ok", value)


def look(what: str, value: str, hint: str) -> Finding:
    return Finding(what, "look", value, hint)


def bad(what: str, value: str, hint: str) -> Finding:
    return Finding(what, "bad", value, hint)


def skipped(what: str, reason: str) -> Finding:
    return Finding(what, "skipped", reason)
