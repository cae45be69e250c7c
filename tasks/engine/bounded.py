"""What a server says, within bounds: a line, what waits to be heard, and a log each keep their beginning and their end.

Marks are never left out: they carry the session's nonce, so that only our own scripts can make one.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

HALF_LINE = 8 << 10
"""Bytes kept at either end of a line that is longer than both."""
MOST_TOLD = 64 << 20
"""Bytes of marks in one run; a file of variables has 1 MB, the tables of a large database less."""
ROOM = 4 << 20
"""Bytes of text that may wait to be heard."""
HEAD_LINES, TAIL_LINES = 100, 400
HEAD_BYTES, TAIL_BYTES = 128 << 10, 512 << 10
"""Of what a run leaves to be read later."""
OVERHEAD = 100
"""Bytes a string takes besides its characters."""


class Line:
    """One line as it arrives in pieces, split where a mark begins."""

    def __init__(self, sign: bytes) -> None:
        self._sign = sign
        self.text = bytearray()
        self.told: bytearray | None = None
        self.left_out = 0
        self.is_cut = False
        """Whether a mark was too long to be kept whole."""

    def add(self, piece: bytes) -> None:
        if self.told is None:
            start = max(0, len(self.text) - len(self._sign) + 1)
            self.text += piece
            at = self.text.find(self._sign, start)
            if at < 0:
                self._shorten()
                return
            piece = bytes(self.text[at + len(self._sign) :])
            del self.text[at:]
            self.told = bytearray()
        room = MOST_TOLD - len(self.told)
        self.is_cut = self.is_cut or len(piece) > room
        self.told += piece[:room]
        self._shorten()

    def words(self) -> str:
        """What was printed; "" when the line is a mark alone."""
        if not self.left_out:
            return self.text.decode(errors="replace").rstrip("\r")
        head, tail = self.text[:HALF_LINE], self.text[HALF_LINE:]
        left_out = self.left_out + max(0, len(tail) - HALF_LINE)
        ends = (part.decode(errors="replace") for part in (head, tail[-HALF_LINE:]))
        return f" [... {left_out:,} bytes left out ...] ".join(ends).rstrip("\r")

    def _shorten(self) -> None:
        if len(self.text) > 8 * HALF_LINE:
            self.left_out += len(self.text) - 2 * HALF_LINE
            del self.text[HALF_LINE:-HALF_LINE]


class Kept:
    """Lines of a log: the first ones, the last ones, and how many were between."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._in_head = self._in_tail = self._left_out = 0

    def append(self, line: str) -> None:
        size = len(line) + OVERHEAD
        if not self._tail and len(self._head) < HEAD_LINES and self._in_head + size <= HEAD_BYTES:
            self._head.append(line)
            self._in_head += size
            return
        self._tail.append(line)
        self._in_tail += size
        while len(self._tail) > TAIL_LINES or self._in_tail > TAIL_BYTES:
            self._in_tail -= len(self._tail.popleft()) + OVERHEAD
            self._left_out += 1

    def lines(self) -> tuple[str, ...]:
        between = [f"[... {self._left_out:,} lines left out ...]"] if self._left_out else []
        return (*self._head, *between, *self._tail)


Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """From the thread that listens to the one that hears, in order.

    Text that comes faster than it is heard is left out and counted: waiting would keep the listener from what matters,
    as that a section must not be stopped now. `patient`: it waits all the same, for who wants every line.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Item, int, bool]] = deque()
        self._changed = threading.Condition()
        self._waiting = self._told = 0
        self._is_open = True
        self.patient = False
        self.left_out = 0
        """Lines since this was last set to 0."""

    def put(self, item: Item, size: int = 0, *, told: bool = False) -> None:
        """`size` in bytes. What is `told` is never left out: OverflowError where nobody can have asked for so much."""
        with self._changed:
            if told:
                self._told += size
                if self._told > 2 * MOST_TOLD:
                    raise OverflowError("it tells more than anybody asked for")
            elif size and self._waiting + size > ROOM:
                if self.patient:
                    self._changed.wait_for(lambda: self._waiting + size <= ROOM or not (self._is_open and self.patient))
                if self._waiting + size > ROOM:
                    self.left_out += 1
                    return
            self._items.append((item, size, told))
            self._waiting += 0 if told else size
            self._changed.notify_all()

    def get(self, timeout: float) -> Item | None:
        """None: nothing came in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout):
                return None
            item, size, told = self._items.popleft()
            self._told -= size if told else 0
            self._waiting -= 0 if told else size
            self._changed.notify_all()
            return item

    def empty(self) -> bool:
        return not self._items

    def close(self) -> None:
        """Nobody will hear any more: whoever waits for room goes on."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
