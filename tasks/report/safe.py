"""The only way text leaves this program: what a server, a visitor or a file says steers no terminal and no CI runner.

tests/test_hostile_words.py forbids any other: `print`, `sys.stdout`, rich's own `print`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console as Terminal
    from rich.text import Text

# C0 and C1 controls, DEL; line and paragraph separators; format characters, which reorder or hide what is read
# (Unicode category Cf); invisible selectors that smuggle text; halves of a surrogate pair.
_STEERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)
_STYLES = re.compile(r"(\x1b\[[01]m)")
"""What report.words.bold writes; nothing else of a terminal's language is ours."""
LONGEST = 1 << 16
"""Characters of a line that are waited for."""


def block(text: str) -> str:
    """Lines as they are; whatever else is no character to be read is shown as `\\x1b` or `\\u202e`."""
    return _STEERS.sub(_visible, text.replace("\r\n", "\n"))


def clean(text: str, limit: int = 500) -> str:
    """One line of somebody else's text, cut at `limit` characters; a line break or tab in it is a space."""
    text = block(text[: 4 * limit]).replace("\n", " ").replace("\t", " ").rstrip()
    return text if len(text) <= limit else f"{text[:limit]}…"


def defused(text: str) -> str:
    """Lines that GitHub's runner takes for no command: it obeys `::` after any indent and `##[` anywhere."""
    return re.sub(r"^([^\S\n]*):(?=:)", r"\1: ", text.replace("##[", "## ["), flags=re.MULTILINE)


def out(text: str, *, styled: bool = False) -> None:
    """A block to stdout: what was asked for. `styled`: its bold words are ours, and each piece of it is `clean`."""
    _write(sys.stdout, text, styled=styled)


def err(text: str) -> None:
    """A block to stderr: what is said about it."""
    _write(sys.stderr, text)


def prompt(question: str) -> None:
    """A question to stderr, the cursor behind it."""
    _write(sys.stderr, question, end=" ")


def out_json(value: Any, indent: int | None = None) -> None:
    """A value to stdout."""
    _put(sys.stdout, to_json(value, indent) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """As json.dumps, and no byte of it means anything to a terminal or a runner."""
    text = json.dumps(value, indent=indent, default=str)
    return text.replace("\x7f", "\\u007f").replace("##[", "##\\u005b")


def out_bytes(content: bytes) -> None:
    """A file to stdout, byte for byte: for pipes and files. The caller has seen to it that nobody reads it there."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def is_read_by_people(stream: TextIO) -> bool:
    """Whether it ends on a terminal or in the log of a CI job."""
    if stream.isatty():
        return True
    if not (os.environ.get("GITHUB_ACTIONS") or os.environ.get("GITLAB_CI") or os.environ.get("CI")):
        return False
    try:
        return not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return True


class Readable:
    """A stream for the output of somebody's program: made safe, in whole lines, where people read it; else as it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._safe, self._rest = stream, is_read_by_people(stream), ""
        self.encoding = stream.encoding

    def write(self, said: str) -> None:
        if not self._safe:
            self._stream.write(said)
            return
        *lines, self._rest = (self._rest + said).split("\n")
        for line in lines:
            _write(self._stream, line.removesuffix("\r"))
        if len(self._rest) > LONGEST:
            self.end()

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """What had no line break at its end."""
        if self._rest:
            _write(self._stream, self._rest, end="")
        self._rest = ""


class Lines:
    """A stream for whole lines that falls silent when nobody reads on: a closed pipe must not end a deploy."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heard = True

    def say(self, text: str) -> None:
        self._put(_shown(self._stream, text))

    def command(self, text: str) -> None:
        """A marker of ours for a CI runner; what is not ours in it is `clean` already."""
        self._put(text)

    def _put(self, text: str) -> None:
        if not self._heard:
            return
        try:
            _put(self._stream, f"{text}\n")
        except OSError:
            self._heard = False
            self._discard_the_rest()

    def _discard_the_rest(self) -> None:
        """Otherwise Python flushes again at exit, fails again, and exits with 120 instead of our code."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def text(said: str, style: str = "") -> Text:
    """A line for rich: text, never its markup."""
    from rich.text import Text

    return Text(clean(said), style)


def show(terminal: Terminal, *pieces: tuple[str, str]) -> None:
    """Blocks, each with a style of rich's, in one line of a terminal that is alive."""
    from rich.text import Text

    terminal.print(Text.assemble(*((block(said), style) for said, style in pieces)))


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shown(stream: TextIO, text: str, *, styled: bool = False) -> str:
    if styled and stream.isatty():
        parts = _STYLES.split(text)
        text = "".join(part if index % 2 else block(part) for index, part in enumerate(parts))
    else:
        text = block(text)
    return defused(text) if os.environ.get("GITHUB_ACTIONS") == "true" else text


def _write(stream: TextIO, text: str, *, end: str = "\n", styled: bool = False) -> None:
    _put(stream, _shown(stream, text, styled=styled) + end)


def _put(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode("ascii", "replace").decode())
    stream.flush()
