"""What a server function tells while it works: lines of its session that carry the session's nonce.

They go to descriptor 3 where the session opened it, each in one write, so that those of a forked child do not mix.
"""

from __future__ import annotations

import base64
import os
from contextlib import suppress

from .values import wire

MARKS = 3
_nonce = ""


def begin(nonce: str) -> None:
    """Everything told before this, or without a descriptor to tell it on, goes nowhere."""
    global _nonce
    _nonce = nonce


def fact(name: str, value: str) -> None:
    _mark("fact", name, value)


def warn(text: str) -> None:
    _mark("warn", text)


def error(message: str, hint: str = "") -> None:
    _mark("error", message, hint)


def found(name: str, text: str) -> None:
    """What there is now of a resource, in words that may be shown."""
    _mark("found", name, base64.b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii"))


def remains(what: str, names: str, how: str) -> None:
    """Something that a person has to do."""
    _mark("remains", what, names, how)


def returned(value: object) -> None:
    """What a call gave back; TypeError for what cannot travel."""
    _mark("returned", wire.dumps(value))


def _mark(kind: str, *words: str) -> None:
    if not _nonce:
        return
    plain = (word.translate({9: " ", 10: " ", 13: " ", 0x1E: " "}) for word in words)
    line = "\t".join((f"\x1e{_nonce}", kind, *plain)) + "\n"
    with suppress(OSError):  # nobody listens any more: what is done is done all the same
        os.write(MARKS, line.encode("utf-8", "replace"))
