"""Runs pg_restore and pg_dump where an error is an answer: how it ended, and what it said."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from typing import IO, Callable

from project_answer import say
from project_client import MOST, as_django_connects, path_of, quoted

WORTH_SAYING = ("error:", "warning:", "WARNING:")  # never the statement: it may hold a password

WARNS = ("warning:", "WARNING:")
COUNTED = "errors ignored on restore"  # each of them is asked about by itself


def run(
    connection,
    program: str,
    *words: str,
    database: str = "",
    feed: Callable[[IO[bytes]], None] | None = None,
    search_path: str | None = None,
    warnings: set[str] | None = None,
) -> tuple[int, str]:
    """(exit code, the first of its errors). `feed` writes what it reads, its sessions begin with `search_path`,
    and what it warns of is added to `warnings`.
    """
    where, environment = as_django_connects(connection, database, "") if database else ([], dict(os.environ))
    if search_path is not None:
        where[0] += f" options={quoted(options(connection, search_path))}"  # the last one counts
    with tempfile.TemporaryFile() as talk:
        process = subprocess.Popen(
            [path_of(connection, program), *where, *words], env={**environment, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL, stdout=sys.stderr, stderr=talk)  # fmt: skip
        feeder = threading.Thread(target=fed, args=(process.stdin, feed), daemon=True) if feed else None
        try:
            if feeder:
                feeder.start()
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if feeder:
                feeder.join()
        talk.seek(max(0, talk.tell() - MOST))
        lines = talk.read().decode(errors="replace").splitlines()
    if warnings is not None:
        warnings.update(line for line in lines if any(mark in line for mark in WARNS) and COUNTED not in line)
    worth = [line for line in lines if any(mark in line for mark in WORTH_SAYING)]
    for line in worth[:50]:
        say(line)
    return code, next((line for line in worth if "error:" in line), f"exit {code}" if code else "")


def fed(pipe: IO[bytes], feed: Callable[[IO[bytes]], None]) -> None:
    try:
        with pipe:
            feed(pipe)
    except BrokenPipeError:
        pass  # it has ended, and its exit code says how


def options(connection, search_path: str) -> str:
    given = connection.get_connection_params().get("options", "")
    escaped = search_path.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"{given} -c search_path={escaped}".strip()
