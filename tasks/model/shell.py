"""What is said to a server: calls with typed words, quoted on the wire and masked everywhere else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath


@dataclass(frozen=True)
class Secret:
    """A word that is written out only on the wire."""

    value: str = field(repr=False)


Word = str | int | PurePath | Secret
Call = tuple[Word, ...]


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
    """Calls of the server library (templates/server), one per line, in order."""

    calls: tuple[Call, ...] = ()

    def text(self) -> str:
        """As it goes over the wire."""
        return "".join(" ".join(quoted(word) for word in call) + "\n" for call in self.calls)

    def shown(self) -> str:
        """As people may see it: secrets masked, long words (whole files) shortened."""
        return "\n".join(" ".join(_brief(quoted(word, masked=True)) for word in call) for call in self.calls)

    def __add__(self, other: Script) -> Script:
        return Script(self.calls + other.calls)

    def __bool__(self) -> bool:
        return bool(self.calls)


def script(*calls: Call) -> Script:
    return Script(calls)


def joined(scripts: Iterable[Script]) -> Script:
    return Script(tuple(call for one in scripts for call in one.calls))


def _brief(word: str, limit: int = 160) -> str:
    if len(word) <= limit and "\n" not in word:
        return word
    return f"<{len(word.encode())} bytes>"
