"""What anybody on this machine could read of others' command lines while something runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.meanwhile import every


@contextmanager
def process_list() -> Iterator[set[str]]:
    """Every command line there is meanwhile, of this machine and of the servers that run on it."""
    seen: set[str] = set()

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    with every(0.02, look):
        yield seen
