"""Holds the tables of a PostgreSQL as they are at one moment: locks first, the snapshot then, both until the rows are
counted.

TRUNCATE and an ALTER that rewrites a table are seen by every snapshot, also by one that is older: without the lock
the table is empty in it, the old rows gone and the new ones not there yet.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import Callable, Iterator, TypeVar

from django.db import Error
from project_answer import Refused, first_line, tell
from project_blockers import BACKUP, MOST, OFTEN
from project_client import more_locks, read_everything
from project_sessions import fetch, literal, patient

PATIENCE = 60  # seconds for all waits together
TRY = 500  # milliseconds a lock is waited for, while others may wait for us: less than deadlock_timeout
LOOK = 0.25  # seconds between two looks at those who hold a table
GONE = ("42P01", "3F000")  # no such table, no such schema
BUSY = ("55P03", "57014", "40P01")  # lock_timeout, statement_timeout, a deadlock
FULL = "53200"  # no room for more locks
FORBIDDEN = "42501"
LOCKS_AT_ONCE = 64  # what PostgreSQL promises each transaction where nobody set it
# What pg_dump dumps rows of: not the tables of extensions, but for those they say are the user's to fill.
TABLES = """
    SELECT format('%I.%I', nspname, relname), c.oid::bigint, relkind = 'r' AND d.objid IS NULL,
        (SELECT count(*) FROM pg_index WHERE indrelid = c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    AND (d.objid IS NULL OR EXISTS (SELECT FROM pg_extension e WHERE e.oid = d.refobjid AND c.oid = ANY(extconfig)))
    ORDER BY 1"""
# The ones that keep everybody out of a table, or wait to. What a session of another role does may be hidden from us.
PREPARED = """(SELECT concat('prepared transaction ', gid, ' of ', owner) FROM pg_prepared_xacts
    JOIN pg_locks x ON x.transactionid = transaction AND x.pid IS NULL
    WHERE x.virtualtransaction = l.virtualtransaction)"""
EXCLUSIVE = f"""
    SELECT concat(l.pid, '/', l.virtualtransaction), concat(CASE WHEN l.pid IS NULL THEN {PREPARED} ELSE
        concat('session ', l.pid, ' of ', coalesce(usename, 'PostgreSQL itself'), ' (',
            coalesce(nullif(application_name, ''), backend_type, 'without a name'),
            ', query since ' || query_start::timestamptz(0), ')') END,
        CASE WHEN l.granted THEN ', which holds ' ELSE ', which waits for ' END, format('%%I.%%I', nspname, relname))
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = relnamespace
    LEFT JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation = ANY(%s::bigint[]::oid[])
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY l.granted DESC, query_start"""
# Whom our pg_dump waits for. One who asked for a table between our lock and that of pg_dump waits for us in turn, and
# we for pg_dump, which PostgreSQL cannot see.
BEFORE = """
    SELECT dump.pid, %s = ANY(pg_blocking_pids(way.pid)), CASE WHEN way.pid = 0 THEN 'a prepared transaction'
        ELSE concat('session ', way.pid, ' of ', other.usename, ' (',
            coalesce(nullif(other.application_name, ''), other.backend_type, 'without a name'),
            ', query since ' || other.query_start::timestamptz(0), ')') END
    FROM pg_stat_activity dump, unnest(pg_blocking_pids(dump.pid)) AS way (pid)
    LEFT JOIN pg_stat_activity other ON other.pid = way.pid
    WHERE dump.application_name = %s"""
UNSEEN = """
    SELECT string_agg(oid::regclass::text, ', ' ORDER BY 1) FROM pg_class
    WHERE relkind IN ('r', 'p') AND relrowsecurity AND row_security_active(oid)"""

Result = TypeVar("Result")


class InTheWay(Exception):
    """Tables cannot be held now. `tables`: where to look for who has them; none: they only changed meanwhile."""

    def __init__(self, tables: list) -> None:
        super().__init__()
        self.tables = tables


def at_one_moment(connection, work: Callable[..., Result]) -> Result:
    """`work(session, snapshot, watch)` while nobody can change a table; `watch` raises when somebody came between.

    What is waited for is never waited for with locks in our hands, or whoever wants a table that we have waits too.
    """
    with closing(patient(connection)) as session, closing(patient(connection)) as observer:
        fetch(session, "SET idle_in_transaction_session_timeout = 0")
        fetch(session, f"SET application_name = {literal(BACKUP)}")
        fetch(observer, "SET ROLE NONE")  # only the one who logged in sees what his sessions do
        until = time.monotonic() + PATIENCE
        while True:
            try:
                snapshot, tables = held(session, until)
                result = work(session, snapshot, watched(session, observer, tables))
            except InTheWay as way:
                fetch(session, "ROLLBACK")
                await_others(observer, way.tables, until)
            else:
                fetch(session, "COMMIT")
                return result


def held(session, until: float) -> tuple[str, list[tuple]]:
    """(snapshot, tables): those that there are in it, all locked."""
    tables = hold(session, until)
    snapshot = fetch(session, "SELECT pg_export_snapshot()")[0][0]
    if [row[:2] for row in fetch(session, TABLES)] != [row[:2] for row in tables]:
        raise InTheWay([])
    return snapshot, tables


def hold(session, until: float) -> list[tuple]:
    """Before the first query of the transaction, for that is what takes the snapshot."""
    tables = fetch(session, TABLES)
    fetch(session, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    fetch(session, f"SET LOCAL lock_timeout = {TRY}")
    fetch(session, f"SET LOCAL statement_timeout = {max(1, int((until - time.monotonic()) * 1000))}")
    try:
        if tables:
            fetch(session, f"LOCK TABLE {', '.join('ONLY ' + name for name, *_ in tables)} IN ACCESS SHARE MODE")
    except Error as error:
        code = sqlstate(error)
        if code in BUSY:
            raise InTheWay(tables) from None
        if code in GONE:
            raise InTheWay([]) from None
        fetch(session, "ROLLBACK")
        hint = {FULL: more_locks, FORBIDDEN: read_everything}.get(code, lambda _: "Nothing was written.")(session)
        raise Refused(f"The tables cannot be held for a backup: {first_line(error)}", hint) from None
    fetch(session, "SET LOCAL lock_timeout = 0")
    fetch(session, "SET LOCAL statement_timeout = 0")
    return tables


def watched(session, observer, tables: list[tuple]) -> Callable[[str], None]:
    """Asked with the name of pg_dump's session, as long as that runs."""
    own, told = fetch(session, "SELECT pg_backend_pid()")[0][0], [-float(OFTEN)]

    def watch(name: str) -> None:
        found = fetch(observer, BEFORE, [own, name])
        for dump, waits_for_us, _ in found:
            if waits_for_us:
                fetch(observer, "SELECT pg_terminate_backend(%s)", [dump])
                raise InTheWay(tables)
        if found and time.monotonic() - told[0] >= OFTEN:
            told[0] = time.monotonic()
            tell(f"pg_dump waits for {listed([who for _, _, who in found])}")

    return watch


def await_others(observer, tables: list[tuple], until: float) -> None:
    """Until those who have or want a table for themselves are gone; newcomers are not waited for."""
    oids = [oid for _, oid, *_ in tables]
    found = dict(fetch(observer, EXCLUSIVE, [oids]))
    there, told = set(found), -float(OFTEN)
    while True:
        now = time.monotonic()
        names = [found[one] for one in found if one in there]
        if now >= until:
            raise Refused(
                f"Within {PATIENCE} s the tables could not be held for a backup: {listed(names)}.",
                "Try again when it has ended. No row is lost: nothing was written.",
            )
        if not names:
            time.sleep(min(LOOK, until - now))
            return
        if now - told >= OFTEN:
            told = now
            tell(f"the backup waits for {listed(names)}, {until - now:.0f} s at most")
        time.sleep(min(LOOK, until - now))
        there &= {one for one, _ in fetch(observer, EXCLUSIVE, [oids])}


def listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return " and ".join(names[:MOST]) + more if names else "others keep changing them"


def sqlstate(error: Error) -> str:
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


def check_nothing_is_hidden(session) -> None:
    """pg_dump would refuse as well, with words that help nobody."""
    hidden, user = fetch(session, UNSEEN)[0][0], fetch(session, "SELECT quote_ident(current_user)")[0][0]
    if hidden:
        raise Refused(
            f"Row-level security hides rows of {hidden} from {user}, so a backup of it would not be whole.",
            f"As postgres: ALTER ROLE {user} BYPASSRLS; its queries then see every row. Or, for tables that are its"
            " own: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY;",
        )


def count_rows(session) -> dict:
    """Of every table. Counting locks each index of a table as well: what is locked for it is given back at once, or a
    database of many would need more locks than there are."""
    found: dict = {}
    for group in groups(fetch(session, TABLES)):
        asked = (f"SELECT {literal(name)}, count(*) FROM ONLY {name}" for name in group)
        with given_back(session):
            found.update(fetch(session, " UNION ALL ".join(asked)))
    return dict(sorted(found.items()))


def groups(tables: list[tuple]) -> Iterator[list[str]]:
    group: list = []
    room = LOCKS_AT_ONCE
    for name, _, is_counted, indexes in tables:
        if not is_counted:
            continue
        if group and room < 1 + indexes:
            yield group
            group, room = [], LOCKS_AT_ONCE
        group.append(name)
        room -= 1 + indexes
    if group:
        yield group


@contextmanager
def given_back(session) -> Iterator[None]:
    """The locks of the block, not those taken before it. Outside a transaction PostgreSQL does it by itself."""
    if not session.connection.info.transaction_status:
        yield
        return
    fetch(session, "SAVEPOINT given_back")
    yield
    fetch(session, "ROLLBACK TO SAVEPOINT given_back")
