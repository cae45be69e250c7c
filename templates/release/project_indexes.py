"""Lets what PostgreSQL does CONCURRENTLY wait, for it holds nobody up, and leaves no index behind that is of no use."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import Iterable, Iterator

from django.db import Error
from project_answer import Refused, first_line, tell
from project_plan import in_database
from project_sessions import fetch, literal, patient

WAIT = 600_000  # ms, for transactions that began before; whom it waits for is said
SHORT = 5_000  # ms, to take back what failed: whoever was in the way may still be
QUIET = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
CONCURRENT = re.compile(
    r"\s*(CREATE\s+(UNIQUE\s+)?INDEX|DROP\s+INDEX|REINDEX|ALTER\s+TABLE|REFRESH\s+MATERIALIZED)\b.*\bCONCURRENTLY\b",
    re.IGNORECASE | re.DOTALL,
)
CREATED = re.compile(
    r'\bCREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|[\w$]+)', re.IGNORECASE
)
RECORDED = re.compile(r'\s*INSERT INTO "django_migrations"')
INDEXES = """
    SELECT indexrelid::bigint, indexrelid::regclass::text, relname, indisvalid FROM pg_index
    JOIN pg_class c ON c.oid = indexrelid WHERE relpersistence <> 't' AND relnamespace::regnamespace::text !~ '^pg_'"""
# Of other roles' sessions one is not told what they build: then nothing is dropped.
BUILT_NOW = """
    SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND coalesce(index_relid, 0)::bigint IN (0, %s))"""


class Indexes:
    """What was there before a migration, and what of it was made since the last one was recorded."""

    def __init__(self, connection) -> None:
        self.before = seen(connection)
        self.created: list[str] = []

    @contextmanager
    def watched(self, connection, lock_timeout: int) -> Iterator[None]:
        def execute_patiently(execute, sql, params, many, context):
            text = str(sql)
            if RECORDED.match(text):
                self.created.clear()
            if not is_concurrent(text) or connection.in_atomic_block:
                return execute(sql, params, many, context)
            limit(connection, lock_timeout and max(lock_timeout, WAIT))
            result = execute(sql, params, many, context)
            limit(connection, lock_timeout)
            self.created += created_by(text)
            return result

        with connection.execute_wrapper(execute_patiently):
            yield

    def take_back(self, connection, migration) -> tuple[bool, list[str]]:
        """Whether nothing of a failed migration is left, and statements for what could not be taken back.

        Its good indexes go as well, where it makes nothing else: the next attempt could not make them again.
        """
        only_indexes = migration is not None and all(map(is_about_indexes, in_database(migration.operations)))
        left = []
        for index, (name, bare, valid) in seen(connection).items():
            if index in self.before:
                if self.before[index][2] and not valid:
                    left.append(f"DROP INDEX CONCURRENTLY {name}; or REINDEX INDEX CONCURRENTLY {name};")
            elif (not valid or (only_indexes and bare in self.created)) and not drop(connection, index, name, SHORT):
                left.append(f"DROP INDEX CONCURRENTLY {name};")
        gone = {name for name, _, _ in self.before.values()} - {name for name, _, _ in seen(connection).values()}
        return only_indexes and not left and not gone, left


def seen(connection) -> dict[int, tuple[str, str, bool]]:
    """Object id -> (name as a statement has it, bare name, whether it is valid)."""
    if connection.vendor != "postgresql":
        return {}
    return {index: (name, bare, valid) for index, name, bare, valid in fetch(connection, INDEXES)}


def invalid(connection) -> list[str]:
    return sorted(name for index, (name, _, valid) in seen(connection).items()
                  if not valid and not fetch(connection, BUILT_NOW, [index])[0][0])  # fmt: skip


def is_concurrent(sql: str) -> bool:
    return bool(CONCURRENT.match(QUIET.sub(" ", sql)))


def created_by(sql: str) -> list[str]:
    names = CREATED.findall(QUIET.sub(" ", sql))
    return [name[1:-1].replace('""', '"') if name.startswith('"') else name.lower() for name in names]


def statements(operation) -> list[str]:
    """Of a RunSQL, forwards."""
    sql = getattr(operation, "sql", "") or ""
    parts = [sql] if isinstance(sql, str) else list(sql)
    return [part[0] if isinstance(part, (list, tuple)) else str(part) for part in parts]


def is_about_indexes(operation) -> bool:
    kind = type(operation).__name__
    if kind == "RunSQL":
        return all(map(is_concurrent, statements(operation)))
    return kind in ("AddIndexConcurrently", "RemoveIndexConcurrently")


def to_be_created(migrations: Iterable) -> set[str]:
    """Bare names of what these migrations create CONCURRENTLY."""
    names = set()
    for migration in migrations:
        for operation in in_database(migration.operations):
            if type(operation).__name__ == "AddIndexConcurrently":
                names.add(operation.index.name)
            elif type(operation).__name__ == "RunSQL":
                names.update(name for sql in statements(operation) for name in created_by(sql))
    return names


def drop_unfinished(connection, migrations: Iterable) -> None:
    """What an earlier attempt left: no query uses it, and CREATE INDEX would fail on it, or pass over it in silence."""
    wanted = to_be_created(migrations)
    for index, (name, bare, valid) in seen(connection).items():
        if not valid and bare in wanted:
            tell(f"the index {name}, which an earlier attempt left unfinished, is dropped")
            if not drop(connection, index, name, WAIT):
                raise Refused(f"The index {name} is not finished, and could not be dropped.",
                              f"As its owner, when nothing uses its table: DROP INDEX CONCURRENTLY {name};",
                              applied=[], failed="", atomic=True)  # fmt: skip


def drop(connection, index: int, name: str, milliseconds: int) -> bool:
    """Whether it is gone. Nothing that somebody else may be building now."""
    try:
        with closing(patient(connection)) as session:
            if fetch(session, BUILT_NOW, [index])[0][0]:
                return False
            limit(session, milliseconds)
            fetch(session, f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            return True
    except Error as error:
        tell(f"{name} could not be dropped: {first_line(error)}")
        return False


def limit(connection, milliseconds: int) -> None:
    with connection.connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {literal(str(int(milliseconds)))}")
