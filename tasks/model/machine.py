"""What a server should be: things, each with a way to look and a way to make it so, in parts that go live together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .call import Call
from .shell import Line, Script


@dataclass(frozen=True)
class Thing:
    """One thing about a server. `look` answers with words that may be shown; `want` are those of a server that has it.

    `make` is idempotent and takes place inside a part. Of a secret, `want` says only that it is there.
    """

    name: str
    look: Line | Call[object]
    want: str
    make: Script


@dataclass(frozen=True)
class Part:
    """Things that go live together: made, then judged by `check`, then put to use; put back when either fails.

    A part without `use` is in use as soon as it is made.
    """

    name: str
    title: str
    things: tuple[Thing, ...]
    check: Script = field(default_factory=Script)
    use: Script = field(default_factory=Script)


@dataclass(frozen=True)
class Drift:
    """A thing that is not as it should be; `found` is "" where it is not there at all."""

    part: str
    thing: Thing
    found: str

    @property
    def is_new(self) -> bool:
        return not self.found

    def diff(self) -> Iterator[str]:
        """Unified, without a header: what is there now, and what should be."""
        old, new = self.found.splitlines(), self.thing.want.splitlines()
        lines = difflib.unified_diff(old, new, n=2, lineterm="")
        yield from (line for line in lines if not line.startswith(("---", "+++")))


Found = Mapping[str, str]
"""Name of a thing -> what was found."""


def drift(parts: tuple[Part, ...], found: Found) -> tuple[Drift, ...]:
    """In the order of the parts. What nothing was heard of counts as not there."""
    return tuple(
        Drift(part.name, thing, found.get(thing.name, "").rstrip("\n"))
        for part in parts
        for thing in part.things
        if found.get(thing.name, "").rstrip("\n") != thing.want.rstrip("\n")
    )
