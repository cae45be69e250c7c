"""Renames two databases at once while people use one of them, and holds their requests where that is possible."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import closing, contextmanager
from typing import Iterator

from django.db import Error
from project_answer import Refused, first_line, say
from project_preflight import holders
from project_sessions import fetch, maintenance, quote

LOCK_WAIT = 5_000  # milliseconds a rename waits for the database, and newcomers behind it
GRACE = 0.4  # seconds for what is under way to end by itself; newcomers wait that long
LOOK = 0.02  # seconds between two looks at who is still inside
INSIDE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)
    AND (%s OR state = 'idle' AND state_change < clock_timestamp() - make_interval(secs => %s))"""
HOLD_SECONDS = 15  # until systemd gives up asking


def swap(connection, live: str, incoming: str, outgoing: str, hold: str = "") -> None:
    """live becomes outgoing and incoming becomes live, in one transaction, while sessions are ended from another.

    The first rename's lock keeps newcomers out, and PostgreSQL waits 5 s for those inside to go. ALLOW_CONNECTIONS
    false would shut them out as well, but cannot be in the transaction: killed in between, it would leave the live
    database closed to everybody. Here there is no state in between.
    """
    connection.close()
    done = threading.Event()
    with closing(maintenance(connection)) as renamer, closing(maintenance(connection)) as ender, requests_held(hold):
        ender.inc_thread_sharing()
        helper = threading.Thread(target=end_sessions, args=(ender, [live, incoming], done))
        helper.start()
        try:
            fetch(renamer, f"SET lock_timeout = {LOCK_WAIT}")
            fetch(renamer, "BEGIN")
            fetch(renamer, f"ALTER DATABASE {quote(live)} RENAME TO {quote(outgoing)}")
            fetch(renamer, f"ALTER DATABASE {quote(incoming)} RENAME TO {quote(live)}")
            fetch(renamer, "COMMIT")
        except Error as error:
            raise Refused(
                f"The swap was refused, and nothing was switched: {first_line(error)}", who_holds(connection, live)
            ) from error
        finally:
            done.set()
            helper.join()


def who_holds(connection, live: str) -> str:
    try:
        with closing(maintenance(connection)) as session:
            held = holders(session, live)
    except (Error, Refused):
        held = ""
    return f"End {held or 'the session that holds the database'}, then try again."


def end_sessions(ender, databases: list[str], done: threading.Event) -> None:
    """Those at rest at once, the others when what they do had its time to end."""
    began = time.monotonic()
    while not done.wait(LOOK):
        try:
            fetch(ender, INSIDE, [databases, time.monotonic() - began > GRACE, GRACE])
        except Error as error:
            say(f"ending sessions: {first_line(error)}")


@contextmanager
def requests_held(unit: str) -> Iterator[None]:
    """By pgBouncer, while `unit` runs; systemd lets them go on by itself when we cannot say so any more."""
    if not unit:
        yield
        return
    if not as_root("start", unit):
        say("pgBouncer did not come to rest in time, so requests under way may fail")
    try:
        yield
    finally:
        as_root("stop", unit)


def as_root(verb: str, unit: str) -> bool:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    words = [*sudo, "/usr/bin/systemctl", verb, unit]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HOLD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{verb} {unit}: {error}")
        return False
    if done.returncode:
        say(f"{verb} {unit}: {done.stderr.strip()}")
    return done.returncode == 0
