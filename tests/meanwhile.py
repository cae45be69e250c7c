"""What goes on beside a block of code, in a thread of its own, until the block is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(do: Callable[[threading.Event], object]) -> Iterator[None]:
    """`do` is given what is set when the block is over, and is waited for."""
    over = threading.Event()
    thread = threading.Thread(target=do, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def every(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    """`do` again and again, with so many seconds between."""

    def repeat(over: threading.Event) -> None:
        while not over.wait(seconds):
            do()

    with meanwhile(repeat):
        yield
