"""One conversation with one server: scripts go in, steps, facts and an exit come out; it holds the lock."""

from __future__ import annotations

import contextlib
import gzip
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..model.errors import FailedError, HostLost
from ..server.values import wire
from .bounded import MOST_TOLD, OVERHEAD, Inbox, Kept, Line

HEARTBEAT_SECONDS = 3.0
END_SECONDS = 2.0
STOP_SECONDS = 100.0
"""A critical section is bounded by this; what is not critical is killed sooner."""
MOST_STOPS = 4
"""Times a run that is over its time is told to end, 20 s apart."""


STATUS = re.compile(r"[0-9]{1,3}")
LONGEST_REASON = 4000
"""Characters of an error that are shown."""


class Channel(Protocol):
    """Bytes to and from one bash."""

    def write(self, data: bytes) -> None: ...

    def read(self) -> bytes:
        """Blocks; b"" when the other end is gone."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Mark:
    """Something a script told, as opposed to printed."""

    kind: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    exit: int
    marks: tuple[Mark, ...] = ()
    log: tuple[str, ...] = ()
    lost: str = ""
    """Why the connection ended before the exit was heard; the outcome is unknown then."""

    @property
    def ok(self) -> bool:
        return self.exit == 0 and not self.lost

    @property
    def error(self) -> tuple[str, str]:
        """(message, hint) as the script gave them, or its exit status."""
        if self.lost:
            return self.lost, "what it did last is unknown; `fab status` looks, the next run repairs"
        for mark in reversed(self.marks):
            if mark.kind == "error":
                message, hint, *_ = (*mark.words, "", "")
                return message[:LONGEST_REASON], hint[:LONGEST_REASON]
        return f"exit status {self.exit}", ""

    @property
    def returned(self) -> tuple[Any, ...]:
        """What each call of tasks/server gave back, in order."""
        try:
            return tuple(wire.loads("\t".join(mark.words)) for mark in self.marks if mark.kind == "returned")
        except (ValueError, TypeError, RecursionError):
            raise FailedError("the server gave back what cannot be understood", "fab status") from None

    def facts(self) -> dict[str, str]:
        return {mark.words[0]: (*mark.words, "")[1] for mark in self.marks if mark.kind == "fact" and mark.words}


Hear = Callable[[Mark | str], None]
Heard = Mark | str | None


def unheard(_: Mark | str) -> None:
    pass


@dataclass
class Session:
    """HostLost when the server does not say hello."""

    host: str
    channel: Channel
    nonce: str
    host_key: str = ""
    """Fingerprint of the key the server showed; "" where none was asked for."""
    _heard: Inbox[Heard] = field(default_factory=Inbox)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _runs: int = 0
    _critical: bool = False
    _why: str = ""

    def __post_init__(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def hello(self, timeout: float = 30) -> Session:
        strange: deque[str] = deque(maxlen=3)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            heard = self._next(left)
            if isinstance(heard, Mark) and heard.kind == "hello":
                return self
            if heard is None:
                break
            strange.append(str(heard)[:200])
        self.close()
        raise HostLost(
            f"{self.host} does not answer as a server should: {' / '.join(strange) or self._why or 'silence'}"
        )

    def run(self, script: str, hear: Hear = unheard, timeout: float = 3600, *, patient: bool = False) -> Result:
        """Blocks until its exit is heard, the connection is lost or `timeout` seconds are over (it is stopped).

        What it prints faster than `hear` takes it is left out and counted; with `patient` the server waits instead.
        """
        self._runs += 1
        self._heard.patient, self._heard.left_out = patient, 0
        self._say("run", script)
        answer = Answer(hear)
        deadline, stopping = time.monotonic() + timeout, 0
        while True:
            left = deadline - time.monotonic()
            heard = self._next(max(0.05, left)) if left > 0 or stopping else None
            match heard:
                case Mark("exit", (_, number)) if number != str(self._runs):
                    continue  # of a run that was killed and had ended at the same moment
                case Mark("exit", (status, *_)) if not STATUS.fullmatch(status):
                    self._lose("what it says of how the run ended is no number")
                    return answer.result(-1, lost=self._why)
                case Mark("exit", (status, *_)):
                    answer.left_out(self._heard.left_out)
                    return answer.result(int(status))
                case Mark() | str():
                    answer.add(heard)
                    if not stopping or left > 0:
                        continue
                case None if self._closed.is_set():
                    return answer.result(-1, lost=self._why or "the connection was lost")
            stopping += 1
            if stopping > MOST_STOPS and not self._critical:
                self._lose("it neither ends nor stops talking" if heard else "it does not end")
                return answer.result(-1, lost=self._why)
            self.stop() if stopping == 1 else self.kill()
            answer.add(Mark("error", (f"not done after {timeout:.0f} s", "raise build_timeout, or look what hangs")))
            deadline = time.monotonic() + 20

    def lock(self, who: str) -> str:
        """ "" when taken; else who holds it. HostLost when it cannot be known."""
        self._say("lock", who)
        deadline = time.monotonic() + 30
        while (left := deadline - time.monotonic()) > 0:
            match self._next(left):
                case Mark("lock", ("taken", *_)):
                    return ""
                case Mark("lock", ("busy", *rest)):
                    return rest[0] if rest and rest[0].strip() else "somebody, who has not said yet"
                case Mark("lock", ("failed", why, *_)):
                    raise HostLost(f"{self.host}: {why}")
                case None if self._closed.is_set():
                    break
        raise HostLost(f"{self.host}: {self._why or 'no answer about the lock'}")

    def unlock(self) -> None:
        self._say("unlock")

    def stop(self) -> None:
        """Ends what runs there; a critical section finishes first."""
        with contextlib.suppress(OSError, EOFError):
            self._say("stop")

    def kill(self) -> None:
        """As stop, for what does not listen; spares a critical section."""
        if not self._critical:
            with contextlib.suppress(OSError, EOFError):
                self._say("kill")

    def close(self) -> None:
        """Returns when the other end has let go of its lock, or after a while: what comes next may want it."""
        with contextlib.suppress(Exception):
            self._say("end")
        self._heard.close()
        self._over.wait(END_SECONDS)
        self._closed.set()
        with contextlib.suppress(Exception):
            self.channel.close()

    @property
    def alive(self) -> bool:
        return not self._closed.is_set()

    def _say(self, verb: str, body: str = "") -> None:
        data = body.encode()
        with self._writing:
            try:
                self.channel.write(
                    f"{verb} {len(data) if verb in ('run', 'lock') else ''}".strip().encode() + b"\n" + data
                )
            except Exception as problem:
                self._lose(problem)

    def _lose(self, problem: object) -> None:
        self._why = self._why or f"the connection was lost ({problem})".replace(" ()", "")
        self._closed.set()
        self._heard.put(None)

    def _next(self, timeout: float) -> Heard:
        """None: nothing came in time, or nothing will come any more (`alive` says which)."""
        return self._heard.get(0 if self._over.is_set() else timeout)

    def _listen(self) -> None:
        try:
            for heard in parse(self.nonce, iter(self.channel.read, b"")):
                if isinstance(heard, Mark) and heard.kind == "critical":
                    self._critical = heard.words == ("on",)
                words = heard.words if isinstance(heard, Mark) else (heard,)
                self._heard.put(heard, sum(map(len, words)) + OVERHEAD, told=isinstance(heard, Mark))
            self._lose("")
        except Exception as problem:
            self._lose(problem)
        finally:
            self._over.set()

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with self._writing:
                try:
                    self.channel.write(b"\n")
                except Exception as problem:
                    self._lose(problem)


def parse(nonce: str, pieces: Iterator[bytes]) -> Iterator[Mark | str]:
    """Lines as they come, each within bounds; marks carry the session's nonce, so that nothing a program prints can
    pass for one, and none is lost in what a program prints.
    """
    sign = b"\x1e" + nonce.encode() + b"\t"
    line = Line(sign)
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for one in ended:
            line.add(one)
            yield from _heard_in(line)
            line = Line(sign)
        line.add(rest)
    if text := line.words():  # half a mark is none
        yield text


def _heard_in(line: Line) -> Iterator[Mark | str]:
    text = line.words()
    if text or line.told is None:
        yield text
    if line.told is not None:
        kind, *words = line.told.decode(errors="replace").split("\t")
        yield Mark("too much", (kind,)) if line.is_cut else Mark(kind, tuple(words))


class Answer:
    """What a run told so far, within bounds."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._marks: list[Mark] = []
        self._log = Kept()
        self._told = 0
        self._is_too_much = False

    def add(self, heard: Mark | str) -> None:
        if isinstance(heard, str):
            self._log.append(heard)
        else:
            self._told += sum(map(len, heard.words)) + OVERHEAD
            if heard.kind == "too much" or self._told > MOST_TOLD:
                self._is_too_much = True
                return
            self._marks.append(heard)
        self._hear(heard)

    def left_out(self, count: int) -> None:
        if count:
            said = f"[... {count:,} lines were left out: they came faster than they could be shown ...]"
            self._log.append(said)
            self._hear(said)

    def result(self, exit: int, lost: str = "") -> Result:
        """What counts is never left out in silence: more of it than fits is a failure."""
        if self._is_too_much:
            why = f"the server told more than {MOST_TOLD >> 20} MB in one run: nothing is decided on half of it"
            self._marks.append(Mark("error", (why, "what does it have so very many of? Please report it")))
            exit = exit or 1
        return Result(exit, tuple(self._marks), self._log.lines(), lost=lost)


def new_nonce() -> str:
    return secrets.token_hex(8)


def packed(opening: str) -> bytes:
    """As it is sent: half as many bytes, which a slow link notices at each run."""
    return gzip.compress(opening.encode(), mtime=0)


def command_line(size: int, *, sudo: bool = False) -> str:
    """What the login shell is asked to run: a bare bash that reads its first `size` bytes as program, `packed`.

    sudo forgets where the connection came in, which a firewall must know.
    """
    root = 'sudo -n env SSH_CONNECTION="$SSH_CONNECTION" ' if sudo else ""
    return f"exec {root}bash --noprofile --norc -c 'code=$(head -c {size} | gzip -dc) && eval \"$code\"'"
