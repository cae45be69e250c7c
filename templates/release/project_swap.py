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
from project_sessions import MAY_END, fetch, in_each_role, maintenance, quote

LOCK_WAIT = 5_000  # milliseconds a rename waits for the database, and newcomers behind it
GRACE = 0.2  # seconds for what is under way to end by itself; longer only keeps more newcomers waiting, to be refused
REST = 0.05  # seconds without a word after which a session is between two requests, most likely
LOOK = 0.01  # seconds between two looks at who is still inside
# Autovacuum is nobody's, and not ours to end: PostgreSQL does it.
INSIDE = f"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s) AND usesysid IS NOT NULL
    AND {MAY_END} AND (%s OR state = 'idle' AND state_change < clock_timestamp() - make_interval(secs => %s))"""
OLDEST = """
    SELECT format('the transaction of %%s (session %%s, since %%s)', usename, pid, xact_start::timestamptz(0))
    FROM pg_stat_activity WHERE datname = %s AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 1"""
HOLD_SECONDS = 15  # until systemd gives up asking


def swap(connection, live: str, incoming: str, outgoing: str, hold: str = "") -> list[str]:
    """live becomes outgoing and incoming becomes live. Returns what people should hear of."""
    connection.close()
    with closing(maintenance(connection)) as renamer, closing(maintenance(connection)) as ender:
        with requests_held(hold, renamer, live) as remarks:
            try:
                rename(renamer, ender, live, incoming, outgoing)
            except Error as error:
                raise Refused(
                    f"The swap was refused, and nothing was switched: {first_line(error)}", who_holds(connection, live)
                ) from error
    return remarks


def rename(session, ender, live: str, incoming: str, outgoing: str) -> None:
    """In one transaction, while sessions are ended from another.

    The first rename's lock keeps newcomers out, and PostgreSQL waits 5 s for those inside to go. ALLOW_CONNECTIONS
    false would shut them out as well, but cannot be in the transaction: killed in between, it would leave the live
    database closed to everybody. Here there is no state in between.
    """
    done = threading.Event()
    ender.inc_thread_sharing()
    helper = threading.Thread(target=end_sessions, args=(ender, [live, incoming], done))
    helper.start()
    try:
        fetch(session, f"SET lock_timeout = {LOCK_WAIT}")
        fetch(session, "BEGIN")
        fetch(session, f"ALTER DATABASE {quote(live)} RENAME TO {quote(outgoing)}")
        fetch(session, f"ALTER DATABASE {quote(incoming)} RENAME TO {quote(live)}")
        fetch(session, "COMMIT")
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
            for _ in in_each_role(ender):
                fetch(ender, INSIDE, [databases, time.monotonic() - began > GRACE, REST])
        except Error as error:
            say(f"ending sessions: {first_line(error)}")


@contextmanager
def requests_held(unit: str, session, live: str) -> Iterator[list[str]]:
    """By pgBouncer, while `unit` runs; systemd lets them go on by itself when we cannot say so any more."""
    if not unit:
        yield []
        return
    held = as_root("start", unit)
    try:
        yield (
            [] if held else [f"pgBouncer could not hold requests, so some may have failed: {who_works(session, live)}"]
        )
    finally:
        as_root("stop", unit)


def who_works(session, live: str) -> str:
    oldest = fetch(session, OLDEST, [live])
    return f"{oldest[0][0]} did not end" if oldest else "journalctl -u pgbouncer says why"


def as_root(verb: str, unit: str) -> bool:
    program = f"/usr/local/lib/fab-releases/{unit.rpartition('-')[0]}-systemctl"
    program = program if os.path.exists(program) else "/usr/bin/systemctl"
    words = ["/usr/bin/systemctl", verb, unit] if os.geteuid() == 0 else ["sudo", "-n", program, verb, unit]
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
