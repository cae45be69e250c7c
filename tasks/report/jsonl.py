"""For programs: every event as one JSON object per line."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TextIO

from ..model.errors import EXIT_CODES
from ..model.event import Event, PlanFinished
from ..model.plan import Plan
from . import outcome, paper, safe
from .safe import Lines


class Jsonl:
    """docs/reference/json.md is the contract: fields are added, never renamed or removed."""

    def __init__(self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._lines, self._now = Lines(stream), now
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            at = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._lines.command(safe.to_json({"event": name(event), "at": at, **to_json(event)}))

    def close(self) -> None:
        """Nothing is held back: every line was flushed."""


def name(event: Event) -> str:
    """step_finished for StepFinished."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()


def to_json(event: Event) -> dict[str, Any]:
    told = {one.name: _value(getattr(event, one.name)) for one in fields(event)}
    if isinstance(event, PlanFinished):
        told |= {"result": outcome.result(event), "meaning": EXIT_CODES.get(event.code, "failed")}
        told["plan"] = {key: value for key, value in paper.to_json(event.plan).items() if key != "phases"}
    return told


def _value(value: object) -> object:
    return paper.to_json(value) if isinstance(value, Plan) else value
