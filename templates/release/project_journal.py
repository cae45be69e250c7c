"""Adds a line to the journal of releases, as templates/server/release.sh does, where nobody has a session."""

from __future__ import annotations

import fcntl
import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path

RECENT = 20_000  # bytes at the end, in which the newest number is


def append(path: Path, event: str, release: str, by: str, note: str, **more: object) -> None:
    """One whole line, on disk when this returns. OSError where it cannot be written."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(max(0, file.seek(0, os.SEEK_END) - RECENT))
        recent = file.read()
        numbers = re.findall(rb'^\{"seq": (\d+),.*\}$', recent, re.MULTILINE)
        line = {"seq": int(numbers[-1]) + 1 if numbers else 1, "event": event, "release": release, "previous": "",
                "at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", "by": by, "note": note, **more}  # fmt: skip
        closed = b"\n" if recent and not recent.endswith(b"\n") else b""  # a power loss can leave half a last line
        file.write(closed + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
