"""The journal of a stage's releases, as far as it can be read: who went live when, and what a power loss left of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from . import files
from .values.site import Site

LIMIT = 256 << 20
"""Bytes; a line is some 200, and a year has some thousands."""


class Journal(NamedTuple):
    live: str | None
    """The release that was live at its end, "" for none; None where no line says."""
    lives: tuple[str, ...]
    """Every release that ever went live, the last one first."""
    is_certain: bool
    """Whether every line after the one that decided `live` can be read."""


def read(site: Site) -> Journal:
    try:
        lines = files.read(f"{site.private}/journal.jsonl", LIMIT).split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    live, lives, certain = None, [], True
    for line in filter(None, lines):
        entry = _entry(line)
        if entry is None:
            certain = False
        elif entry["event"] in ("live", "repaired", "withdrawn"):
            live = str(entry.get("previous" if entry["event"] == "withdrawn" else "release", ""))
            certain = True
            if entry["event"] == "live":
                lives.append(live)
    return Journal(live, tuple(dict.fromkeys(reversed(lives))), certain)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("event"), str) else None
