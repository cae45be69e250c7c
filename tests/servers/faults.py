"""What goes wrong with servers, by name: each fault proves that it is on, and is gone after its block."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from . import network
from .network import do
from .server import Server, answers


@contextmanager
def cut_link(server: Server, how: Literal["down", "drop"] = "down") -> Iterator[None]:
    """No packet passes, in either direction, and nobody is told.

    "down": the server's own interface is down, so programs on it see "network is unreachable" at once.
    "drop": its packets vanish silently too. Dropping in one direction only would not cut a command off.
    """
    rules = [(chain, flag) for chain, flag in (("INPUT", "-i"), ("OUTPUT", "-o"))] if how == "drop" else []
    inside = ("ip", "netns", "exec", server.link.name, "iptables", "-w")
    try:
        for chain, flag in rules:
            do(*inside, "-I", chain, flag, "eth0", "-j", "DROP")
        if how == "down":
            network.cut(server.link)
        _prove(not answers(server.address, server.ssh_port), f"{server.name} is silent")
        yield
    finally:
        for chain, flag in rules:
            do(*inside, "-D", chain, flag, "eth0", "-j", "DROP")
        if how == "down":
            network.heal(server.link)
        if server.is_up:
            _prove_soon(lambda: answers(server.address, server.ssh_port), f"{server.name} answers again")


@contextmanager
def full_disk(server: Server, path: str, *, free_kib: int = 0, free_inodes: int | None = None) -> Iterator[None]:
    """The folder `path` becomes a file system with just this much room; what is in it stays in it, also afterwards.

    `free_inodes` limits the number of new files: then `df -h` may still show room (give some `free_kib`).
    A rename between this folder and another one fails (EXDEV), so choose the folder that holds both.
    """
    here, below = shlex.quote(path), f"/run/full-disk-{time.monotonic_ns()}"
    copy = "rsync --archive --hard-links --delete"
    # private: otherwise the folder below would show the new file system too
    server.run(f"mkdir {below} && mount --bind --make-private {here} {below}")
    server.run(f"mount -t tmpfs -o size=90%,nr_inodes=50m tmpfs {here}")
    try:
        server.run(f"{copy} {below}/ {here}/", timeout=300)
        attempt = _leave_room(server, here, free_kib, free_inodes)
        _prove(server.run(attempt, check=False).returncode != 0, f"{path} is full")
        server.run(f"rm -rf {here}/.try")
        yield
    finally:
        if server.is_up:
            server.run(f"{copy} {here}/ {below}/", timeout=300)
            server.run(f"umount --lazy {here} && umount --lazy {below} && rmdir {below}")


def _leave_room(server: Server, here: str, free_kib: int, free_inodes: int | None) -> str:
    """Shrink a tmpfs to what it holds and this much more; the answer is a command that now has to fail."""
    counted = server.run(f"df --output=used -k {here} | tail -n 1; find {here} | wc -l").stdout
    used, files = map(int, counted.split())
    limits = f"size={used + free_kib}k"
    attempt = f"head --bytes={(free_kib + 64) * 1024} /dev/zero > {here}/.try"
    if free_inodes is not None:
        limits += f",nr_inodes={files + free_inodes}"
        attempt = f"mkdir {here}/.try && cd {here}/.try && touch $(seq {free_inodes + 1})"
    server.run(f"mount -o remount,{limits} {here}")
    return attempt


@dataclass(frozen=True)
class Shim:
    """A tool that fails on purpose."""

    server: Server
    log: str

    @property
    def calls(self) -> int:
        return len(self.server.run(f"cat {self.log}").stdout.splitlines())


@contextmanager
def shim(server: Server, tool: str, nth: int | None = 1, code: int = 42) -> Iterator[Shim]:
    """The `nth` call of a tool by its name (every call: None) fails with `code` and "fault injected"; others work.

    It stands in /usr/local/bin, where ssh sessions and units look first. A call by absolute path or from a narrower
    PATH goes past it, so look at `calls`.
    """
    own = f"/usr/local/bin/{tool}"
    real = server.run(f"command -v {shlex.quote(tool)}", user="deploy").stdout.strip()
    folder = f"/run/shim-{tool}-{time.monotonic_ns()}"
    log, kept = f"{folder}/calls", f"{folder}/real"
    condition = "true" if nth is None else f'[ "$(wc -l < {log})" -eq {nth} ]'
    script = f'#!/bin/sh\necho "$$" >> {log}\nif {condition}; then echo "fault injected: {tool}" >&2; exit {code}; fi\n'
    server.run(f"mkdir {folder} && touch {log} && chmod 666 {log}")
    if real == own:
        server.run(f"cp --archive {own} {kept}")
    server.put(own, script + f'exec {kept if real == own else real} "$@"\n', 0o755)
    try:
        found = server.run(f"head -n 2 $(command -v {shlex.quote(tool)})", user="deploy").stdout
        _prove(log in found, f"the failing {tool} is found first")
        yield Shim(server, log)
    finally:
        if server.is_up:
            server.run(f"cp --archive --remove-destination {kept} {own}" if real == own else f"rm {own}")


@contextmanager
def stopped(server: Server, unit: str) -> Iterator[None]:
    """A service that is off."""
    try:
        server.run(f"systemctl stop {unit}")
        _prove(not _active(server, unit), f"{unit} is off")
        yield
    finally:
        if server.is_up:
            server.run(f"systemctl start {unit}")
            _prove(_active(server, unit), f"{unit} is on again")


@contextmanager
def frozen(server: Server, unit: str) -> Iterator[None]:
    """A service that takes connections and never answers: all its processes are halted.

    Name the unit that has the processes: postgresql@15-main, not postgresql.
    """
    try:
        server.run(f"systemctl kill --signal=STOP {unit}")
        _prove_soon(lambda: _main_state(server, unit) == "T", f"{unit} is frozen")
        yield
    finally:
        if server.is_up:
            server.run(f"systemctl kill --signal=CONT {unit}")
            _prove_soon(lambda: _main_state(server, unit) not in ("T", ""), f"{unit} goes on")


@contextmanager
def slow_link(server: Server, rtt_ms: float, *, port: int | None = None) -> Iterator[tuple[str, int]]:
    """An address on loopback by which the server is far away: each direction takes half of `rtt_ms`.

    It is as wide as before. Opening a connection costs one round trip more, as it would.
    """
    with ExitStack() as stack:
        proxy = _DelayProxy((server.address, port or server.ssh_port), rtt_ms / 1000)
        stack.callback(proxy.stop)
        yield "127.0.0.1", proxy.port


class _DelayProxy:
    """Carries TCP connections in a thread of its own, every byte later than it came."""

    def __init__(self, target: tuple[str, int], round_trip: float) -> None:
        self._target, self._round_trip = target, round_trip
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()  # asyncio.run then cancels the connections that are still open
        server.close()

    async def _carry(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._round_trip)
        with suppress(OSError, asyncio.CancelledError):  # `stop` cancels what is open, which asyncio would print
            far_in, far_out = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._delay(near_in, far_out), self._delay(far_in, near_out))
            finally:
                far_out.close()
        near_out.close()

    async def _delay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=4096)

        async def read() -> None:
            data = b"x"
            while data:
                data = await source.read(65536)
                await under_way.put((self._loop.time() + self._round_trip / 2, data))

        async def write() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                if not data:
                    break
                sink.write(data)
                await sink.drain()
            sink.write_eof()

        await asyncio.gather(read(), write())


def _active(server: Server, unit: str) -> bool:
    return server.run(f"systemctl is-active {unit}", check=False).stdout.strip() == "active"


def _main_state(server: Server, unit: str) -> str:
    """The state letter of a unit's main process: T is halted; empty when there is none."""
    pid = server.run(f"systemctl show --property=MainPID --value {unit}").stdout.strip()
    return server.run(f"ps -o state= -p {pid}", check=False).stdout.strip()


def _prove(fact: bool, said: str) -> None:
    if not fact:
        raise AssertionError(f"fault: it is not so that {said}")


def _prove_soon(fact: Callable[[], bool], said: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        _prove(time.monotonic() < deadline, said)
        time.sleep(0.05)
