"""What a reporter is, and how several listen to one plan without being able to harm it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

from ..model.event import Event, Note


class Reporter(Protocol):
    """Called with every event, from several threads; closed once, also when the plan ended badly."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A stream for whole lines that falls silent when nobody reads on: a closed pipe must not end a deploy."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heard = True

    def say(self, text: str) -> None:
        if not self._heard:
            return
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except UnicodeEncodeError:
            self.say(text.encode("ascii", "replace").decode())
        except OSError:
            self._heard = False
            self._discard_the_rest()

    def _discard_the_rest(self) -> None:
        """Otherwise Python flushes again at exit, fails again, and exits with 120 instead of our code."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


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
