"""A session with a server that says what a test puts in its mouth."""

from __future__ import annotations

import queue
from collections.abc import Iterable

from tasks.engine.session import Session

NONCE = "0123456789abcdef"


class Mouth:
    """A channel: says hello, and each line when a script is run; then its exit."""

    def __init__(self, lines: Iterable[bytes], *, hello: bool = True) -> None:
        self.lines, self.runs = lines, 0
        self.pieces: queue.Queue[bytes] = queue.Queue()
        if hello:
            self.pieces.put(mark("hello", "5"))
        else:
            self.speak()
            self.pieces.put(b"")

    def speak(self) -> None:
        for line in self.lines:
            self.pieces.put(line + b"\n")

    def write(self, data: bytes) -> None:
        if data.startswith(b"run "):
            self.runs += 1
            self.speak()
            self.pieces.put(mark("exit", "0", str(self.runs)))
        elif data.startswith(b"end"):
            self.pieces.put(b"")

    def read(self) -> bytes:
        return self.pieces.get()

    def close(self) -> None:
        self.pieces.put(b"")


def mark(*words: str) -> bytes:
    return b"\x1e" + "\t".join((NONCE, *words)).encode() + b"\n"


def session_that_says(host: str, lines: Iterable[bytes], *, hello: bool = True) -> Session:
    session = Session(host, Mouth(lines, hello=hello), NONCE)
    return session.hello() if hello else session
