"""For a terminal: finished steps stay, below them a row per host shows what it is doing now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
from .safe import show, text
from .words import clean, seconds

if TYPE_CHECKING:
    from rich.console import Console as Terminal
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table

_WIDEST_TITLE = 40
_NAMED_HOSTS = 4


@dataclass(frozen=True)
class _Row:
    title: str
    since: float
    spinner: Spinner
    line: str = ""


class Console:
    """Only for a terminal (see choose.py): a live table in a file is noise. `clock` is in seconds."""

    def __init__(self, terminal: Terminal | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console as Terminal

        self._terminal = terminal or Terminal(stderr=True, highlight=False)
        self._clock = clock
        self._done, self._broken, self._dots = (
            ("+", "x", "line") if self._terminal.options.ascii_only else ("✓", "✗", "dots")
        )
        self._lock = threading.Lock()
        self._live: Live | None = None
        # Replaced, never changed: the thread that draws reads them without the lock (it holds rich's own by then).
        self._hosts: tuple[str, ...] = ()
        self._rows: Mapping[str, _Row] = {}
        self._expected: dict[tuple[str, str], set[str]] = {}
        self._phase_hosts: set[str] = set()
        self._finished: dict[tuple[str, str], dict[str, StepFinished]] = {}
        self._failed: list[StepFinished] = []
        self._title_width = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case PlanStarted():
                    self._begin(event.plan)
                case PhaseStarted():
                    self._heading(event.title or event.name, event.hosts)
                case UndoStarted():
                    self._heading(f"Undo: {event.reason}", event.hosts, "bold yellow")
                case StepStarted():
                    self._set(event.host, self._row(event.title or event.step))
                case Said():
                    if row := self._rows.get(event.host):
                        self._set(event.host, replace(row, line=clean(event.line)))
                case StepFinished():
                    self._finish(event)
                case HostDown():
                    self._set(event.host, None)
                    self._flush()
                    self._print(f"{self._broken} {event.host}: connection lost: {event.reason}", "red")
                case Note():
                    host = f"{event.host}: " if event.host else ""
                    said = f"warning: {host}{event.text}" if event.warning else f"{host}{event.text}"
                    self._print(f"  {said}", "yellow" if event.warning else "dim")
                case PlanFinished():
                    self._end(event)

    def close(self) -> None:
        """Gives the terminal back: cursor shown, table gone."""
        if self._live:
            self._live.stop()

    def table(self) -> Table:
        """A row per host: what it does now, for how long, and the last line it said."""
        from rich.table import Table

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=2, justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, max_width=_WIDEST_TITLE)
        table.add_column(no_wrap=True, justify="right", min_width=6)
        table.add_column(no_wrap=True, ratio=1)
        rows = self._rows
        for host in self._hosts:
            if row := rows.get(host):
                passed = seconds(self._clock() - row.since)
                table.add_row(row.spinner, text(host, "bold"), text(row.title), text(passed), text(row.line, "dim"))
            else:
                table.add_row("", text(host), text("waiting", "dim"), "", "")
        return table

    def _begin(self, plan: Plan) -> None:
        from rich.live import Live

        steps = [step for phase in plan.phases for own in phase.steps.values() for step in own]
        self._title_width = min(max((len(step.title or step.name) for step in steps), default=0), _WIDEST_TITLE)
        self._hosts = plan.hosts
        for phase in plan.phases:
            for host, own in phase.steps.items():
                for step in own:
                    self._expected.setdefault((phase.name, step.name), set()).add(host)
        self._print(paper.headline(plan), "bold")
        # stdout stays what it is: it may be a pipe that waits for data.
        self._live = Live(console=self._terminal, get_renderable=self.table, transient=True, redirect_stdout=False)
        self._live.start()

    def _heading(self, title: str, hosts: tuple[str, ...], style: str = "bold") -> None:
        self._flush()
        self._phase_hosts = set(hosts)
        self._print(f"\n{clean(title)}", style)

    def _row(self, title: str) -> _Row:
        from rich.spinner import Spinner

        return _Row(clean(title), self._clock(), Spinner(self._dots, style="cyan"))

    def _set(self, host: str, row: _Row | None) -> None:
        rows = {key: one for key, one in self._rows.items() if key != host}
        self._rows = {**rows, host: row} if row else rows

    def _finish(self, event: StepFinished) -> None:
        self._set(event.host, None)
        if not event.ok:
            self._flush()
            self._failed.append(event)
            title = clean(event.title or event.step)
            self._print(f"{self._broken} {title} failed on {event.host} after {seconds(event.seconds)}", "red")
            for line in outcome.last_lines(event):
                self._print(f"    | {line}")
            return
        key = event.phase, event.step
        done = self._finished.setdefault(key, {})
        done[event.host] = event
        if set(done) >= self._expected.get(key, self._phase_hosts) & self._phase_hosts:
            self._show(self._finished.pop(key))

    def _flush(self) -> None:
        for done in self._finished.values():
            self._show(done)
        self._finished = {}

    def _show(self, done: Mapping[str, StepFinished]) -> None:
        event = next(iter(done.values()))
        title = f"{clean(event.title or event.step):{self._title_width}}  "
        took = self._took({host: one.seconds for host, one in done.items()})
        show(self._terminal, (f"{self._done} ", "green"), (title, ""), (took, "dim"))

    def _took(self, took: Mapping[str, float]) -> str:
        if len(self._hosts) == 1:
            return seconds(next(iter(took.values())))
        if len(took) <= _NAMED_HOSTS:
            return "  ".join(f"{host} {seconds(took[host])}" for host in sorted(took, key=self._place))
        slowest = max(took, key=lambda host: took[host])
        least, most = seconds(min(took.values())), seconds(took[slowest])
        return f"{len(took)} hosts {least} to {most} (slowest {slowest})"

    def _place(self, host: str) -> int:
        return self._hosts.index(host) if host in self._hosts else len(self._hosts)

    def _end(self, event: PlanFinished) -> None:
        self._flush()
        self.close()
        first, _, rest = outcome.to_text(event, self._failed).partition("\n")
        self._print(f"\n{first}", "bold green" if event.code == 0 else "bold red")
        self._print(rest.rstrip("\n"))

    def _print(self, said: str, style: str = "") -> None:
        show(self._terminal, ("\n".join(clean(line) for line in said.split("\n")), style))
