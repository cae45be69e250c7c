"""Numbers backups in the order in which they are begun: names and dates come from clocks, which may be wrong."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

MARK = ".sequence"  # the highest number that was ever given here: those of backups that are gone are not given again


def next_number(directory: Path) -> int:
    """Higher than any here or in the folders beside, where deploys have theirs; on disk when this returns."""
    with one_at_a_time(directory.parent):
        number = 1 + max([*numbers(directory).values(), *map(mark_of, directory.parent.glob(f"*/{MARK}"))], default=0)
        part = directory / f"{MARK}.part"
        with part.open("w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, directory / MARK)
    return number


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mark_of(path: Path) -> int:
    try:
        return counted(int(path.read_text()))
    except (OSError, ValueError):
        return 0


def numbers(directory: Path) -> dict:
    """Name -> number of the backups there; 0 for those of older programs, and for what cannot be read."""
    return {path.stem: number_of(told(path)) for path in directory.glob("*.json")}


def number_of(manifest: dict) -> int:
    return counted(manifest.get("sequence"))


def counted(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def told(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def disagreeing(directory: Path, taken_at: str) -> str:
    """A backup there with a lower number and a later date than one that is taken now; "" for none."""
    found = [(str(manifest.get("taken_at", "")), path.stem) for path in directory.glob("*.json")
             if number_of(manifest := told(path))]  # fmt: skip
    latest, name = max(found, default=("", ""))
    return name if latest > taken_at else ""
