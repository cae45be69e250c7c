"""Users of the shop: an open loop of requests, each timed from the moment it was due, so that no pause goes unseen.

    python -m tests.server.load ADDRESS --rate 200 --seconds 20      a server booted with `python -m tests.servers up`

One in five sells something under a number of its own, one a second is slow, the others read; three in five are sent on
connections that are kept. A request that is late because the one before it waited counts its own wait: a closed loop
(ask, wait, ask again) would stop asking just when the server stops answering.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import Server

HOST = "pos.test"
TIMEOUT = 70.0
"""Seconds after which a request counts as unanswered: nginx has given up after 60."""
MOST_IN_FLIGHT = 4000
"""More than this is not sent, and counts as failed."""
IDLE_SECONDS = 20.0
"""nginx closes a kept connection after 75 s; one is not used again when it may be about to."""
KINDS = ("sale", "page", "health", "products", "static")
READS = {"page": "/", "health": "/healthz", "products": "/api/products/"}
STYLE = re.compile(rb'href="(/static/[^"]+\.[0-9a-f]{12}\.css)"')


@dataclass(frozen=True)
class Answer:
    """One request and what became of it. Times are seconds on the monotonic clock."""

    kind: str
    due: float
    sent: float
    done: float
    status: int
    """0: none came."""
    release: str = ""
    """Which one answered; "" for what nginx answers by itself."""
    uid: str = ""
    """Of a sale."""
    problem: str = ""

    @property
    def latency(self) -> float:
        """Seconds from when it was due."""
        return self.done - self.due

    @property
    def ok(self) -> bool:
        """A sale must be a new one: 200 would mean that the same request had reached the application before."""
        return self.status == (201 if self.uid else 200)

    def __str__(self) -> str:
        return f"{self.kind} {self.uid} {self.status} {self.release} {self.latency:.3f} s {self.problem}"


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Load:
    """Requests to one address, `rate` a second, until `stop`, `seconds` or `most` requests, whichever comes first."""

    address: str
    rate: float = 200
    seconds: float = 600
    most: int = 150_000
    seed: int = 1
    answers: list[Answer] = field(default_factory=list)
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    _stopped: threading.Event = field(default_factory=threading.Event)
    _kept: deque[tuple[float, Connection]] = field(default_factory=deque)
    _styles: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    _in_flight: set[asyncio.Task[None]] = field(default_factory=set)

    def stop(self) -> None:
        """No more are sent; what is under way is still waited for."""
        self._stopped.set()

    def run(self) -> None:
        asyncio.run(self._run())

    def await_calm(self, seconds: float = 60) -> None:
        """Until less than half a second of requests is under way, or `seconds` are over."""
        deadline = time.monotonic() + seconds
        while len(self._in_flight) > self.rate / 2 and time.monotonic() < deadline:
            time.sleep(0.05)

    async def _run(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        chance = random.Random(self.seed)
        started = time.monotonic()
        for number in range(min(self.most, int(self.rate * self.seconds))):
            due = started + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._stopped.is_set():
                break
            self._send(KINDS[number % len(KINDS)], number, due, chance)
            if number % max(1, round(self.rate)) == 0:
                self._send("slow", number, due, chance)
        await asyncio.gather(*self._in_flight)
        for _, (_, writer) in self._kept:
            writer.close()

    def _send(self, kind: str, number: int, due: float, chance: random.Random) -> None:
        if len(self._in_flight) >= MOST_IN_FLIGHT:
            self.answers.append(Answer(kind, due, due, due, 0, problem="too many are under way"))
            return
        if kind == "static" and not self._styles:
            kind = "page"
        uid, body, path = "", b"", READS.get(kind, "")
        if kind == "sale":
            uid, path = f"{self.name}-{number}", "/api/sales/"
            body = json.dumps({"uid": uid, "product": "coffee", "quantity": 1}).encode()
        elif kind == "slow":
            path = f"/api/slow/?seconds={chance.uniform(1, 2):.2f}"
        elif kind == "static":
            path = chance.choice(self._styles)
        task = asyncio.create_task(self._ask(kind, due, path, uid, body, keep=chance.random() < 0.6))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _ask(self, kind: str, due: float, path: str, uid: str, body: bytes, *, keep: bool) -> None:
        sent, status, release, problem = time.monotonic(), 0, "", ""
        try:
            async with asyncio.timeout(TIMEOUT):
                status, headers, content = await self._exchange(path, body, keep=keep)
            release = headers.get("x-release", "")
            if status >= 400:
                problem = content[:200].decode(errors="replace")
            elif kind == "page":
                self._styles.extend(style.decode() for style in STYLE.findall(content))
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            problem = f"{type(error).__name__} {error}"
        self.answers.append(Answer(kind, due, sent, time.monotonic(), status, release, uid, problem))

    async def _exchange(self, path: str, body: bytes, *, keep: bool) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self._connection(keep=keep)
        lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {HOST}", "X-Release-Probe: 1"]
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []
        lines += ["" if keep else "Connection: close\r\n", ""] if not keep else ["", ""]
        try:
            writer.write("\r\n".join(lines).encode() + body)
            status, headers, content = await read_answer(reader)
        except BaseException:
            writer.close()
            raise
        if keep and headers.get("connection") != "close":
            self._kept.append((time.monotonic(), (reader, writer)))
        else:
            writer.close()
        return status, headers, content

    async def _connection(self, *, keep: bool) -> Connection:
        while keep and self._kept:
            since, (reader, writer) = self._kept.pop()
            if time.monotonic() - since < IDLE_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.address, 80)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, body. EOFError when the connection ends before the answer does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join([piece async for piece in _chunks(reader)])
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def _chunks(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


@contextmanager
def load(address: str, rate: float, seconds: float = 600) -> Iterator[Load]:
    """Users come in for the length of the block; after it every one of them has been answered, or never will be."""
    users = Load(address, rate, seconds)
    thread = threading.Thread(target=users.run, name="load")
    thread.start()
    try:
        yield users
    finally:
        users.stop()
        thread.join()


@dataclass
class Watch:
    """Which release `current` names, looked at every few milliseconds from outside the server."""

    link: Path
    seen: list[tuple[str, float, float]] = field(default_factory=list)
    """(release, from, until): it can have been live at these monotonic seconds and at no other."""
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(0.005):
            release = self.link.readlink().name
            now = time.monotonic()
            if self.seen and self.seen[-1][0] == release:
                self.seen[-1] = (release, self.seen[-1][1], now)
            else:  # it was switched somewhere between the last look and this one
                if self.seen:
                    self.seen[-1] = (*self.seen[-1][:2], now)
                self.seen.append((release, before, now))
            before = now

    @property
    def releases(self) -> list[str]:
        return [release for release, _, _ in self.seen]

    def was_live(self, answer: Answer) -> bool:
        """At some moment between its request and its end the answering release was the live one."""
        return any(
            release == answer.release and since <= answer.done and answer.sent <= until
            for release, since, until in self.seen
        )


@contextmanager
def watch(server: Server) -> Iterator[Watch]:
    looking = Watch(Path(f"/proc/{server.init}/root/srv/pos/current"))
    thread = threading.Thread(target=looking.run, name="watch", daemon=True)
    thread.start()
    try:
        yield looking
    finally:
        looking._stopped.set()
        thread.join()


def sales(server: Server, users: Load) -> list[str]:
    """The numbers of the sales of `users` that are in the database, each as often as it is there."""
    asked = f"select uid from sales_sale where uid like '{users.name}-%'"
    return server.run(f'psql -qAt -d pos -c "{asked}"', user="postgres").stdout.split()


def assert_none(answers: Iterable[Answer]) -> None:
    """Or an AssertionError with how many there are, and the first of them."""
    found = list(answers)
    if found:
        raise AssertionError("\n  ".join([f"{len(found)} answers", *map(str, found[:10])]))


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def latencies(answers: Sequence[Answer]) -> str:
    """p50/p99/max of everything that is not slow on purpose, in milliseconds."""
    found = [answer.latency * 1000 for answer in answers if answer.kind != "slow"]
    return "/".join(f"{percentile(found, share):.0f}" for share in (0.5, 0.99, 1)) + " ms (p50/p99/max)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    users = Load(given.address, given.rate, given.seconds)
    with suppress(KeyboardInterrupt):
        users.run()
    failed = [answer for answer in users.answers if not answer.ok]
    print(f"{len(failed)} failed of {len(users.answers)}, {latencies(users.answers)}")
    for answer in failed[:20]:
        print(" ", answer)


if __name__ == "__main__":
    main()
