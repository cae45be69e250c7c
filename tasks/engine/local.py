"""This machine as a server: a bash of its own, out of reach of the terminal's Ctrl-C."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .session import Session, command_line, packed

LEAKS = (
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONHOME",
    "DJANGO_SETTINGS_MODULE",
    "UV_PROJECT_ENVIRONMENT",
    "BASH_ENV",
    "ENV",
)
"""Variables of the operator's shell that would reach into a release."""


class LocalChannel:
    def __init__(self, size: int, tools: Path | None) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in LEAKS and not name.startswith("GIT_")}
        if tools:
            kept["PATH"] = f"{kept.get('PATH', os.defpath)}:{tools}"
        self.process = subprocess.Popen(
            ["bash", "-c", command_line(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=kept,
            cwd="/",
            start_new_session=True,
        )

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self) -> bytes:
        """Closes the pipe at its end, and nobody else does: its number would be the next session's while it is read."""
        assert self.process.stdout
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            self.process.stdout.close()
        return data

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(timeout=150)


def open_local(host: str, opening: str, nonce: str, tools: Path | None = None) -> Session:
    program = packed(opening)
    channel = LocalChannel(len(program), tools)
    channel.write(program)
    return Session(host, channel, nonce).hello()
