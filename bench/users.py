"""Users who ask the front door twenty times a second, whatever happens behind it."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.meanwhile import every
from tests.servers.server import Server


@dataclass
class Seen:
    """What they got: when each answer of 200 came (monotonic seconds), and how many asked and were let down."""

    answered: list[float] = field(default_factory=list)
    asked: int = 0
    failed: int = 0

    @property
    def longest_gap(self) -> float:
        """Seconds in which nobody was answered."""
        times = sorted(self.answered)
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


@contextmanager
def users(server: Server, name: str, path: str = "/healthz") -> Iterator[Seen]:
    """Each request is a connection of its own; none is made where nothing answers at the beginning."""
    seen = Seen()

    def ask() -> None:
        seen.asked += 1
        if _answers(server, name, path):
            seen.answered.append(time.monotonic())
        else:
            seen.failed += 1

    if not _answers(server, name, path):
        yield seen
        return
    seen.answered.append(time.monotonic())
    with every(0.05, lambda: threading.Thread(target=ask, daemon=True).start()):
        yield seen
    time.sleep(0.5)


def _answers(server: Server, name: str, path: str) -> bool:
    connection = http.client.HTTPConnection(server.address, 80, timeout=20)
    try:
        connection.request("GET", path, headers={"Host": name})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
