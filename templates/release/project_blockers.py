"""Finds out whom a migration waits for, and waits for a backup that runs: it holds every table until its end."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from typing import Iterator

from django.db import Error
from project_answer import first_line, say, tell
from project_sessions import fetch, separate

BACKUP = "fab-releases backup"  # what its session calls itself
BACKUP_SINCE = """
    SELECT coalesce(min(xact_start)::timestamptz(0)::text, 'a moment ago') FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = %s AND pid <> pg_backend_pid() HAVING count(*) > 0"""
# Those at the head of the queue: others wait for them as well. Never what they say: a query may hold anything.
BLOCKERS = """
    WITH RECURSIVE ahead (pid) AS (
        SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'
        UNION SELECT unnest(pg_blocking_pids(pid)) FROM ahead)
    SELECT pid, coalesce(application_name, ''), concat('session ', pid, ' of ', coalesce(usename, 'PostgreSQL itself'),
        ' (', coalesce(nullif(application_name, ''), backend_type, 'without a name'),
        ', in a transaction since ' || xact_start::timestamptz(0), ')')
    FROM ahead LEFT JOIN pg_stat_activity USING (pid)
    WHERE cardinality(pg_blocking_pids(pid)) = 0 ORDER BY xact_start"""
LOOK = 0.5  # seconds between two looks, which PostgreSQL's lock manager notices
SOON = 10  # seconds before the first word about a wait
OFTEN = 60  # seconds between two of them
MOST = 3  # named; more are counted


def await_backup(connection, patience: float) -> None:
    """At most `patience` seconds: not every migration needs a table that it holds."""
    if connection.vendor != "postgresql":
        return
    began = time.monotonic()
    told = began - OFTEN
    while since := fetch(connection, BACKUP_SINCE, [BACKUP]):
        passed = time.monotonic() - began
        if passed >= patience:
            tell("the backup still runs: going on beside it; a migration that changes one of its tables will fail")
            return
        if began + passed - told >= OFTEN:
            told = began + passed
            tell(f"a backup runs since {since[0][0]}: waiting for its end, {patience - passed:.0f} s at most")
        time.sleep(min(LOOK, patience - passed))


@contextmanager
def waiting_seen(connection, limit: float) -> Iterator[list[tuple]]:
    """(pid, name, description) of those whom the session of `connection` waited for last; it gives up after `limit`
    seconds (0: never), and then nobody could tell any more.
    """
    found: list[tuple] = []
    if connection.vendor != "postgresql":
        yield found
        return
    session, done = fetch(connection, "SELECT pg_backend_pid()")[0][0], threading.Event()
    look = min(LOOK, limit / 4) if limit else LOOK
    watcher = threading.Thread(target=watch, args=(connection, session, found, look, done))
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def watch(connection, session: int, found: list[tuple], look: float, done: threading.Event) -> None:
    waited, next_word = 0.0, SOON
    try:
        with closing(separate(connection)) as own:
            while not done.wait(look):
                ahead = fetch(own, BLOCKERS, [session])
                waited, next_word = (waited + look, next_word) if ahead else (0.0, SOON)
                if waited >= next_word:
                    tell(f"the migration waits for {named(ahead)}")
                    next_word = waited + OFTEN
                found[:] = ahead or found
    except Error as error:
        say(f"whom the migration may wait for cannot be seen: {first_line(error)}")


def named(found: list[tuple]) -> str:
    names = [what if pid else "a prepared transaction (pg_prepared_xacts)" for pid, _, what in found[:MOST]]
    return " and ".join(names) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def way_out(found: list[tuple]) -> str:
    """What to do about them, in a sentence."""
    if not found:
        return "Another transaction, perhaps a dump, holds the table. Try again when it has ended."
    if any(name.startswith((BACKUP, "pg_dump")) for _, name, _ in found):
        return "A backup holds every table until its end (fab logs --service backup). Deploy again when it has ended."
    ends = " ".join(f"SELECT pg_terminate_backend({pid});" for pid, _, _ in found[:MOST] if pid)
    return f"Deploy again when it has ended{f', or end it: {ends}' if ends else ''}"
