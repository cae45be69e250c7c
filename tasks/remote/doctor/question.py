"""One question to a host, and the answer: lines that begin with a word, or silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...model.facts import HostFacts
from ...model.finding import Finding, State, look, skipped
from ...model.shell import Word

ENDED = (124, 137)
"""How `timeout` says that it had to."""


@dataclass(frozen=True)
class Answer:
    text: str
    status: int | None = 0
    """None: the question could not even be ended."""
    facts: HostFacts = field(default_factory=lambda: HostFacts(""))
    """What the survey of the same moment saw."""
    reached: frozenset[int] = frozenset()
    """Ports of the host that answer the operator's machine."""

    def every(self, word: str) -> list[str]:
        """What follows `word` on each line that begins with it."""
        lines = (line.partition(" ") for line in self.text.splitlines())
        return [rest.strip() for first, _, rest in lines if first == word]

    def one(self, word: str) -> str:
        return next(iter(self.every(word)), "")

    def json(self) -> dict[str, Any]:
        """The last line that is an object. ValueError without one."""
        for line in reversed(self.text.splitlines()):
            if line.startswith("{"):
                return dict(json.loads(line))
        raise ValueError("no JSON")

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.text.splitlines()) if line.strip()), "")


@dataclass(frozen=True)
class Question:
    what: str
    call: tuple[Word, ...]
    """A function of templates/doctor and its words."""
    read: Callable[[Answer], Iterator[Finding]]
    seconds: int = 8
    silence: State = "look"
    """What it means when no answer comes in time."""
    remedy: str = "run it again; if it stays, look at the server's load and disk"
    """What to do then."""
    quiet: bool = False
    """What it says when it fails is not to be shown: it may hold a value."""

    def heard(self, answer: Answer | None) -> tuple[Finding, ...]:
        """At least one finding, whatever came."""
        if answer is None or answer.status is None or answer.status in ENDED:
            return (Finding(self.what, self.silence, f"no answer within {self.seconds} s", self.remedy),)
        if reason := answer.one("skipped"):
            return (skipped(self.what, reason),)
        try:
            found = tuple(self.read(answer))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            found = ()
        return found or (look(self.what, f"could not be asked ({self._why(answer)})", self.remedy),)

    def _why(self, answer: Answer) -> str:
        told = "" if self.quiet and answer.status != 2 else answer.last_line
        return told or (f"exit status {answer.status}" if answer.status else "an answer that is not understood")
