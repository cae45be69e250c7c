"""GitHub Actions: phases fold in the log, a failure is marked, the job gets a summary and outputs."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from ..model.event import Event, PlanFinished, StepFinished
from . import outcome
from .plain import Sections
from .safe import Lines, block, defused
from .words import clean, seconds

_SLOW = 1.0
"""Seconds from which a step is worth a row in the summary."""


def safe(text: str) -> str:
    """A log line the runner does not take for a command: it obeys `::` after any indent and `##[` anywhere."""
    return defused(clean(text))


SECTIONS = Sections(begin=lambda _, title: f"::group::{_data(title)}", end=lambda _: "::endgroup::", clean=safe)


class Summary:
    """Writes what outlives the log, when the plan has finished."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._lines, self._environ = Lines(stream), environ
        self._lock = threading.Lock()
        self._steps: list[StepFinished] = []

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case StepFinished():
                    self._steps.append(event)
                case PlanFinished():
                    self._finish(event)

    def close(self) -> None:
        """Everything was written when the plan finished."""

    def _finish(self, event: PlanFinished) -> None:
        if event.code:
            self._lines.command(error(event))
        self._append("GITHUB_STEP_SUMMARY", summary(event, self._steps))
        self._append("GITHUB_OUTPUT", outputs(event))

    def _append(self, variable: str, text: str) -> None:
        """A summary that cannot be written is a warning: the deploy itself is done."""
        if not self._environ.get(variable):
            return
        try:
            with Path(self._environ[variable]).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as problem:
            self._lines.command(f"::warning title=fab-releases::{_data(f'{variable}: {problem.strerror}')}")


def error(finished: PlanFinished) -> str:
    """The annotation shown on the run's page."""
    title = f"{finished.plan.verb} {finished.plan.stage} {outcome.result(finished)}"
    text = f"{outcome.sentence(finished)}\n{finished.hint}".rstrip()
    return f"::error title={_property(title)}::{_data(text)}"


def outputs(finished: PlanFinished) -> str:
    """Lines for GITHUB_OUTPUT; the delimiter is random, so no value can end itself early and add an output."""
    values = {
        "release": finished.plan.release,
        "previous": outcome.previous(finished),
        "result": outcome.result(finished),
    }
    delimiter = f"end_{secrets.token_hex(16)}"
    return "".join(f"{name}<<{delimiter}\n{clean(value)}\n{delimiter}\n" for name, value in values.items())


def summary(finished: PlanFinished, steps: Iterable[StepFinished]) -> str:
    """Markdown for the job's page."""
    steps = list(steps)
    mark = "✅" if finished.code == 0 else "❌"
    blocks = [
        f"### {mark} {_cell(outcome.sentence(finished))}",
        _table(("", ""), _rows(finished)),
        _slow(steps),
        *(_failure(step, hosts) for step, hosts in outcome.failures(step for step in steps if not step.ok)),
        f"**What next:** {_cell(finished.hint)}" if finished.hint else "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n\n"


def _rows(finished: PlanFinished) -> Iterator[tuple[str, str]]:
    release, before = finished.plan.release, outcome.previous(finished)
    yield "stage", finished.plan.stage
    if release:
        yield "release", release
        yield "commit", _sha(finished)
    if release and before:
        yield "from → to", f"{before} → {release}"
    for serves, hosts in outcome.served(finished):
        yield "serves now", f"{serves} ({', '.join(hosts)})"
    yield "duration", seconds(finished.seconds)
    yield "result", f"{outcome.result(finished)} (exit {finished.code})"


def _sha(finished: PlanFinished) -> str:
    """The whole commit where a host told it as its fact `sha`, else the seven digits in the release's name."""
    told = (facts["sha"] for facts in finished.facts.values() if facts.get("sha"))
    return next(told, finished.plan.release.rpartition("-")[2])


def _slow(steps: Iterable[StepFinished]) -> str:
    slow = sorted((step for step in steps if step.seconds > _SLOW), key=lambda step: -step.seconds)
    rows = ((step.title or step.step, step.host, seconds(step.seconds)) for step in slow)
    return _table(("step", "host", "took"), rows) if slow else ""


def _failure(step: StepFinished, hosts: tuple[str, ...]) -> str:
    lines = outcome.last_lines(step)
    title = f"**{_cell(step.title or step.step)}** failed on {_cell(', '.join(hosts))}"
    if not lines:
        return title
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{title}:", "", f"{fence}text", *lines, fence))


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|~#@$!])", r"\\\1", clean(text)).replace("&", "&amp;")


def _data(text: str) -> str:
    return block(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
