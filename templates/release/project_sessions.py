"""Opens sessions with a PostgreSQL and asks in them."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import Iterator

from django.db import Error
from project_answer import Refused, first_line

MAINTENANCE = ("postgres", "template1")  # a database cannot be renamed from inside
LOCK_SPACE = 0x66616272  # any number, the same on every host
LIMITS = ("statement_timeout", "idle_session_timeout", "transaction_timeout")  # PostgreSQL 14 and 17 have the others
NO_LIMITS = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)"
LOCK_HOLDER = """
    SELECT concat(usename, ' from ', coalesce(host(client_addr), 'this host'), ' since ', backend_start)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = %s AND objid = hashtext(%s)::bit(32)::bigint AND granted"""


def separate(connection, database: str = ""):
    """Another session with the same settings, perhaps to another database; never of a pool, which is bound to one."""
    other = connection.copy()
    options = {name: value for name, value in other.settings_dict["OPTIONS"].items() if name != "pool"}
    other.settings_dict.update(OPTIONS=options, AUTOCOMMIT=True, NAME=database or other.settings_dict["NAME"])
    return other


def patient(connection, database: str = ""):
    """A separate session for what takes long, whatever the application allows one of its own."""
    other = separate(connection, database)
    lift_limits(other)
    return other


def lift_limits(session) -> None:
    fetch(session, NO_LIMITS, [list(LIMITS)])


def maintenance(connection):
    """A session to a database that is not the live one."""
    reasons = []
    for database in MAINTENANCE:
        try:
            return patient(connection, database)
        except Error as error:
            reasons.append(first_line(error))
    hint = "A database is renamed from another one. As postgres: GRANT CONNECT ON DATABASE postgres to this role."
    raise Refused(f"No way into {' or '.join(MAINTENANCE)}: {reasons[0]}", hint)


def is_gone(connection) -> bool:
    """Whether its server answers and has no such database."""
    name = connection.settings_dict["NAME"]
    try:
        with closing(maintenance(connection)) as control:
            return bool(name) and not fetch(control, "SELECT 1 FROM pg_database WHERE datname = %s", [name])
    except (Error, Refused):
        return False


def fetch(connection, statement: str, parameters: object = None) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def only_one(connection, work: str) -> Iterator[None]:
    """Hold an advisory lock on a session of its own: it ends with the session, however that ends."""
    with closing(patient(connection)) as session:
        if not fetch(session, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK_SPACE, work])[0][0]:
            holder = fetch(session, LOCK_HOLDER, [LOCK_SPACE, work]) or [("it has just ended",)]
            raise Refused(f"Another {work} is running ({holder[0][0]}).", "Wait for it, then try again.", kind="locked")
        yield


# A session is ended by whoever has the rights of the role that logged in there; that of a superuser by another one.
MAY_END = """((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        OR NOT (SELECT rolsuper FROM pg_roles WHERE oid = usesysid)
        AND (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))"""


def in_each_role(session) -> Iterator[None]:
    """Once as who logged in, and once in the role that Django took since (assume_role), where that is another one."""
    role, login = fetch(session, "SELECT current_user, session_user")[0]
    if role != login:
        fetch(session, "SET ROLE NONE")
        try:
            yield
        finally:
            fetch(session, f"SET ROLE {quote(role)}")
    yield


def live_name(connection) -> str:
    return fetch(connection, "SELECT current_database()")[0][0]


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
