"""What differs on servers from what they should be, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.machine import Drift
from .words import clean

Drifts = Mapping[str, tuple[Drift, ...]]
MEANING = "- is there now, + is what releases.toml says: fab provision makes it so"
MOST_LINES = 40
"""Of one file; the rest is counted."""


def to_text(found: Drifts, *, whole: bool = True) -> str:
    """A block per host. Without `whole`, what is not there at all is named, not printed."""
    return "\n".join(line for host, drifts in found.items() if drifts for line in _host(host, drifts, whole=whole))


def to_json(found: Drifts) -> list[dict[str, Any]]:
    return [
        {"host": host, "part": one.part, "thing": one.thing.name, "new": one.is_new, "diff": list(one.diff())}
        for host, drifts in found.items()
        for one in drifts
    ]


def _host(host: str, drifts: tuple[Drift, ...], *, whole: bool) -> Iterator[str]:
    yield f"{clean(host)}:"
    for one in drifts:
        yield f"  {clean(one.thing.name)}{': not there' if one.is_new else ''}"
        if whole and not one.is_new:
            lines = [line for line in one.diff() if not line.startswith("@@")]
            yield from (f"    {clean(line)}" for line in lines[:MOST_LINES])
            if len(lines) > MOST_LINES:
                yield f"    ... {len(lines) - MOST_LINES} more lines"
