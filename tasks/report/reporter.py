"""What a reporter is, and how several listen to one plan without being able to harm it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from ..model.event import Event, Note


class Reporter(Protocol):
    """Called with every event, from several threads; closed once, also when the plan ended badly."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


@contextmanager
def together(reporters: Sequence[Reporter]) -> Iterator[Callable[[Event], None]]:
    """One function that tells them all. A reporter that fails is dropped with a warning; the plan goes on."""
    listening = list(reporters)
    lock = threading.RLock()

    def tell(event: Event) -> None:
        for reporter in tuple(listening):
            try:
                reporter(event)
            except Exception as error:
                with lock:
                    if reporter not in listening:
                        continue
                    listening.remove(reporter)
                tell(Note(f"a reporter failed and is silent now: {type(error).__name__}", warning=True))

    try:
        yield tell
    finally:
        for reporter in reporters:
            with suppress(Exception):
                reporter.close()
