"""How the copy of files went, and what is remarkable beside the copies of the week before it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from .. import files
from ..refused import Refused

REMEMBERED = timedelta(days=7)
"""For so long what was lost is said; then it counts as meant."""
MANY = 10
"""Of fewer files, half is no collapse."""
MOST = 200
"""Runs that are remembered."""
Counts = dict[str, tuple[int, int]]


def judged(history: list[dict[str, Any]], counts: Counts, now: datetime) -> tuple[list[str], list[str]]:
    """(what must fail the run, what must be said), of files and bytes in each folder."""
    problems, remarks = [], []
    recent = [one["folders"] for one in history if now - datetime.fromisoformat(one["at"]) < REMEMBERED]
    for folder, (count, size) in counts.items():
        most = max((one[folder][0] for one in recent if folder in one), default=0)
        biggest = max((one[folder][1] for one in recent if folder in one), default=0)
        if most and not count:
            problems.append(f"{folder} has no file any more; it had {most:,} within the last week")
        elif most >= MANY and count * 2 < most:
            remarks.append(f"{folder} has {count:,} files, and had {most:,} within the last week")
        elif most >= MANY and size * 2 < biggest:
            remarks.append(f"{folder} has {size:,} bytes, and had {biggest:,} within the last week")
    return problems, remarks


def history(path: str) -> list[dict[str, Any]]:
    """Of earlier runs, oldest first; [] for what cannot be read."""
    try:
        told = json.loads(files.read(path))
        return [one for one in told if datetime.fromisoformat(one["at"]) and dict(one["folders"])]
    except (OSError, ValueError, KeyError, TypeError, Refused):
        return []


def remember(path: str, counts: Counts, before: list[dict[str, Any]], now: datetime) -> None:
    kept = [one for one in before if now - datetime.fromisoformat(one["at"]) < REMEMBERED]
    text = json.dumps([*kept, {"at": now.isoformat(), "folders": counts}][-MOST:])
    files.replace(path, f"{text}\n".encode(), "root", "root", 0o600)


def write(path: str, group: str, told: dict[str, Any], now: datetime) -> None:
    """One line, which the deploying account may read."""
    text = json.dumps({**told, "at": now.isoformat()})
    files.replace(path, f"{text}\n".encode(), "root", group, 0o640)
