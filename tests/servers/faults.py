"""What goes wrong with servers, by name: each fault proves that it is on, and is gone after its block."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections.abc import Iterator
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
        _prove(not answers(server.address, server.ssh_port), f"{server.name} still answers")
        yield
    finally:
        for chain, flag in rules:
            do(*inside, "-D", chain, flag, "eth0", "-j", "DROP")
        if how == "down":
            network.heal(server.link)
        if server.is_up:
            _prove_soon(lambda: answers(server.address, server.ssh_port), f"{server.name} answers again")


@contextmanager
def full_disk(server: Server, path: str, *, free_kib: int = 0, free_inodes: int = 1_000_000) -> Iterator[None]:
    """The folder `path` is a file system of its own with this much room left; what it holds stays in it, also afterwards.

    Renames between this folder and others fail (EXDEV) as between any two file systems: choose the folder that holds both.
    """
    here, below = shlex.quote(path), f"/run/full-disk-{time.monotonic_ns()}"
    used = int(server.run(f"du -s -B1024 --apparent-size {here}").stdout.split()[0])
    files = int(server.run(f"find {here} | wc -l").stdout)
    size = f"size={2 * used + 4 * files + 1024 + free_kib}k,nr_inodes={files + 16 + free_inodes}"
    server.run(
        f"mkdir {below} && mount --bind {here} {below} && mount -t tmpfs -o {size} tmpfs {here}"
        f" && rsync --archive --hard-links {below}/ {here}/"
    )
    try:
        _take_the_rest(server, here, free_kib, free_inodes)
        yield
    finally:
        if server.is_up:
            back = f"rsync --archive --hard-links --delete --exclude=/.ballast {here}/ {below}/"
            server.run(f"{back}; umount --lazy {here}; umount {below}; rmdir {below}", timeout=120)


def _take_the_rest(server: Server, here: str, free_kib: int, free_inodes: int) -> None:
    """Copying needs more room than counting says, so the rest is taken by a file that is there to take it."""
    left = f"df --output=avail,iavail -k {here} | tail -n 1"
    room, inodes = map(int, server.run(left).stdout.split())
    if room > free_kib:
        server.run(f"fallocate --length {(room - free_kib) * 1024} {here}/.ballast")
    else:
        server.run(f"touch {here}/.ballast")
    spare = inodes - 1 - free_inodes
    if free_inodes < 1000 and spare > 0:
        do_count = f"python3 -c 'import os; os.mkdir(\".ballast\"); [os.mknod(f\".ballast/{{n}}\") for n in range({spare - 1})]'"
        server.run(f"cd {here} && rm .ballast && {do_count}")
    room, inodes = map(int, server.run(left).stdout.split())
