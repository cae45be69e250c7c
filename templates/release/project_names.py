"""Names the databases that stand beside a live one, so that none is ever taken for one of another application."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

LONGEST = 63  # bytes of a PostgreSQL identifier
STAMP = 20  # digits of a UTC time down to the microsecond
KEPT = ("before", "undone")  # what a restore and its undo leave


def stamped(live: str, word: str) -> str:
    return f"{_prefix(live, word)}{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}"


def belongs(name: str, live: str, *words: str) -> bool:
    """Whether `name` is one that `stamped` made for this database and one of these words."""
    return any(
        name.startswith(prefix) and len(name) == len(prefix) + STAMP and name[-STAMP:].isdigit()
        for prefix in (_prefix(live, word) for word in words)
    )


def _prefix(live: str, word: str) -> str:
    """Two long names may begin alike: what is cut away stays as a digest."""
    room = LONGEST - STAMP - len(f"_{word}_")
    if len(live.encode()) > room:
        digest = hashlib.sha256(live.encode()).hexdigest()[:8]
        live = f"{live.encode()[: room - 9].decode(errors='ignore')}_{digest}"
    return f"{live}_{word}_"
