"""For pipes, logs and CI: one line per finished step, no colour, nothing that moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from ..model.event import (
    Event,
    HostDown,
    Note,
    PhaseStarted,
    PlanFinished,
    PlanStarted,
    Said,
    StepFinished,
    StepStarted,
    UndoStarted,
)
from ..model.plan import Plan
from . import outcome, paper
from .safe import Lines
from .words import clean, seconds

_WIDEST_TITLE = 48


@dataclass(frozen=True)
class Sections:
    """How a phase is marked in a log: what is said where it begins (name, title) and where it ends (name)."""

    begin: Callable[[str, str], str]
    end: Callable[[str], str]
    clean: Callable[[str], str] = clean


HEADINGS = Sections(begin=lambda _, title: f"\n{title}", end=lambda _: "")


@dataclass
class _Running:
    title: str
    since: float
    told: float
    line: str = ""


class Plain:
    """Says every `every` seconds that a long step still works; `clock` is in seconds."""

    def __init__(
        self,
        stream: TextIO,
        sections: Sections = HEADINGS,
        clock: Callable[[], float] = time.monotonic,
        every: float = 10,
    ) -> None:
        self._lines, self._sections, self._clock, self._every = Lines(stream), sections, clock, every
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], _Running] = {}
        self._failed: list[StepFinished] = []
        self._section = ""
        self._host_width = self._title_width = 0
        self._closed = threading.Event()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case PlanStarted():
                    self._begin(event.plan)
                case PhaseStarted():
                    self._open(event.name, event.title or event.name)
                case UndoStarted():
                    self._open("undo", f"Undo on {', '.join(event.hosts)}: {event.reason}")
                case StepStarted():
                    now = self._clock()
                    self._running[event.host, event.step] = _Running(event.title or event.step, now, now)
                case Said():
                    if running := self._running.get((event.host, event.step)):
                        running.line = event.line
                case StepFinished():
                    self._finish(event)
                case HostDown():
                    self._running = {key: one for key, one in self._running.items() if key[0] != event.host}
                    self._say(event.host, f"connection lost: {event.reason}")
                case Note():
                    self._say(event.host, f"{'warning: ' if event.warning else ''}{event.text}")
                case PlanFinished():
                    self._end(event)

    def close(self) -> None:
        self._closed.set()

    def still(self) -> None:
        """One line for each step that has said nothing about itself for `every` seconds."""
        with self._lock:
            now = self._clock()
            for (host, _), running in self._running.items():
                if now - running.told >= self._every:
                    running.told = now
                    last = f": {running.line.strip()}" if running.line.strip() else ""
                    self._say(host, f"{running.title}, still working after {round(now - running.since)}s{last}")

    def _begin(self, plan: Plan) -> None:
        steps = [step for phase in plan.phases for own in phase.steps.values() for step in own]
        self._title_width = min(max((len(step.title or step.name) for step in steps), default=0), _WIDEST_TITLE)
        self._host_width = max(map(len, plan.hosts)) if len(plan.hosts) > 1 else 0
        for line in paper.headline(plan).split("\n"):
            self._lines.say(self._sections.clean(line))
        threading.Thread(target=self._watch, name="still working", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(min(1, self._every)):
            self.still()

    def _open(self, name: str, title: str) -> None:
        self._close_section()
        self._section = name
        self._lines.command(self._sections.begin(name, self._sections.clean(title)))

    def _close_section(self) -> None:
        if self._section and (end := self._sections.end(self._section)):
            self._lines.command(end)
        self._section = ""

    def _finish(self, event: StepFinished) -> None:
        self._running.pop((event.host, event.step), None)
        title = f"{event.title or event.step:{self._title_width}}"
        if event.ok:
            self._say(event.host, f"{title}  {seconds(event.seconds):>7}")
            return
        self._failed.append(event)
        self._say(event.host, f"{title}  FAILED after {seconds(event.seconds)}")  # why: on the last screen

    def _end(self, event: PlanFinished) -> None:
        self._closed.set()
        self._close_section()
        for line in f"\n{outcome.to_text(event, self._failed)}".rstrip("\n").split("\n"):
            self._lines.say(self._sections.clean(line))

    def _say(self, host: str, text: str) -> None:
        tag = f"{host:{self._host_width}}  " if self._host_width else ""
        self._lines.say(f"  {self._sections.clean(tag + text)}")
