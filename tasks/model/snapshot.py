"""Snapshots of what is sent away, and what a restore of one would change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import PreflightError


@dataclass(frozen=True)
class Snapshot:
    id: str
    """restic's."""
    taken: datetime
    """With its time zone."""

    @classmethod
    def from_json(cls, told: Mapping[str, str]) -> Snapshot:
        if not re.fullmatch(r"[0-9a-f]{8,64}", told["id"]):
            raise PreflightError(f"no snapshot is called {told['id']!r}")  # it would be a word of a command
        return cls(told["id"], datetime.fromisoformat(told["taken"]))


@dataclass(frozen=True)
class Names:
    """So many, and the first of them."""

    count: int
    first: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Names:
        return cls(int(told["count"]), tuple(told["as"]))


@dataclass(frozen=True)
class Change:
    """What a restore makes of one folder."""

    folder: str
    files: int
    size: int
    """Bytes in the snapshot."""
    added: Names
    removed: Names
    changed: Names

    @classmethod
    def from_json(cls, folder: str, told: Mapping[str, Any]) -> Change:
        added, removed, changed = (Names.from_json(told[name]) for name in ("added", "removed", "changed"))
        return cls(folder, int(told["files"]), int(told["bytes"]), added, removed, changed)
