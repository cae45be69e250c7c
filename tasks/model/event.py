"""What happened, as values: the engine tells, reporters show."""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan import Plan


@dataclass(frozen=True)
class PlanStarted:
    plan: Plan


@dataclass(frozen=True)
class PhaseStarted:
    name: str
    title: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class StepStarted:
    phase: str
    step: str
    title: str
    host: str


@dataclass(frozen=True)
class Said:
    """A line of a step's own output."""

    host: str
    step: str
    line: str


@dataclass(frozen=True)
class Fact:
    """Something a step found out, by name."""

    host: str
    step: str
    name: str
    value: str


@dataclass(frozen=True)
class StepFinished:
    phase: str
    step: str
    title: str
    host: str
    ok: bool
    seconds: float
    log: tuple[str, ...] = ()
    """The step's last lines; whole only when it failed."""


@dataclass(frozen=True)
class UndoStarted:
    reason: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class HostDown:
    """The connection is gone: what the host did last is unknown."""

    host: str
    reason: str


@dataclass(frozen=True)
class Note:
    """Something worth a line: waiting for a lock, a warning."""

    text: str
    host: str = ""
    warning: bool = False


@dataclass(frozen=True)
class PlanFinished:
    plan: Plan
    code: int
    message: str
    seconds: float
    hint: str = ""
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per host: every fact told, the last value of each name."""
    serves: dict[str, str] = field(default_factory=dict)
    """Per host: the release it serves now, "" when none, "?" when it could not be asked."""


Event = (
    PlanStarted | PhaseStarted | StepStarted | Said | Fact | StepFinished | UndoStarted | HostDown | Note | PlanFinished
)
