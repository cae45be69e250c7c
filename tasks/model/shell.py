"""What is said to a server: calls of tasks/server, and lines of typed words; secrets are masked but on the wire."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath

from ..server.values.secret import Secret as Secret
from .call import Call

Word = str | int | PurePath | Secret
Line = tuple[Word, ...]
"""A function of the server library (templates/server), and its words."""


def quoted(word: Word, *, masked: bool = False) -> str:
    """One shell word. ValueError for a NUL, which no shell can carry."""
    if isinstance(word, Secret):
        return "'***'" if masked else quoted(word.value)
    text = str(word)
    if "\0" in text:
        raise ValueError("a word for the shell cannot contain a NUL character")
    return shlex.quote(text)


@dataclass(frozen=True)
class Script:
    """Calls, in order; each is one of tasks/server, or a line of the server library."""

    calls: tuple[Line | Call[object], ...] = ()

    def text(self) -> str:
        """As it goes over the wire: calls of tasks/server that follow one another are one process there."""
        together = groupby(self.calls, key=lambda one: isinstance(one, Call))
        return "".join(_python(list(some)) if python else _lines(some) for python, some in together)  # type: ignore[arg-type]

    def shown(self) -> str:
        """As people may see it: secrets masked, long words (whole files) shortened."""
        return "\n".join(_shown(call) for call in self.calls)

    def __add__(self, other: Script) -> Script:
        return Script(self.calls + other.calls)

    def __bool__(self) -> bool:
        return bool(self.calls)


def script(*calls: Line | Call[object]) -> Script:
    return Script(calls)


def joined(scripts: Iterable[Script]) -> Script:
    return Script(tuple(call for one in scripts for call in one.calls))


def _lines(lines: Iterable[Line]) -> str:
    return "".join(" ".join(quoted(word) for word in line) + "\n" for line in lines)


def _python(calls: list[Call[object]]) -> str:
    names = " ".join(call.function for call in calls)
    return f"server {quoted(names)} {quoted(''.join(call.line() + chr(10) for call in calls))}\n"


def _shown(call: Line | Call[object]) -> str:
    if not isinstance(call, Call):
        return " ".join(_brief(quoted(word, masked=True)) for word in call)
    words = (f"{name}={_brief(_value(value))}" for name, value in call.arguments.items())
    return " ".join([call.function, *words, *([f"(as {call.account})"] if call.account else [])])


def _value(value: object) -> str:
    if isinstance(value, Secret):
        return quoted(value, masked=True)
    if isinstance(value, tuple | list):
        return ",".join(map(_value, value))
    return quoted(value if isinstance(value, str | int | PurePath) else repr(value))


def _brief(word: str, limit: int = 160) -> str:
    if len(word) <= limit and "\n" not in word:
        return word
    return f"<{len(word.encode())} bytes>"
