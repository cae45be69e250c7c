"""What is in a database: restored, counted and compared, as the role that owns it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import accounts, postgres, telling
from ..postgres import Login
from ..refused import Refused
from . import fetched, statements
from .fetched import OLDER, Dump

QUOTED = r'"(?:[^"]|"")+"'
EXTENSION = re.compile(rf"^CREATE EXTENSION IF NOT EXISTS ({QUOTED}|\S+) WITH SCHEMA ({QUOTED}|[^\s;]+);$", re.M)
TABLE = re.compile(rf"({QUOTED}|[^.\"]+)\.({QUOTED}|[^.\"]+)", re.S)
RIGHTS = ("ACL", "DEFAULT ACL")
VIEW = "MATERIALIZED VIEW DATA"
ROWS = ("TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS", "BLOB METADATA", VIEW)
ENTRY = re.compile(
    r"^(\d+); \d+ \d+ (DEFAULT ACL|TABLE DATA|SEQUENCE SET|BLOB METADATA|MATERIALIZED VIEW DATA|\S+) ?(.*)$"
)
# How an archive says where names are looked up (pg_dump.c, dumpSearchPath), and what it says for a second try.
NOWHERE = b"SELECT pg_catalog.set_config('search_path', '', false);\n"
AS_LIVE = b"RESET search_path;".ljust(len(NOWHERE) - 1) + b"\n"
BEGINNING = 4 << 20
"""Bytes of an archive in which it says so."""
TRIES = 4


def fill(login: Login, database: str, dump: Dump, archive: str, path: str, *, with_owners: bool) -> list[str]:
    """What is not in it although it is in the archive. Refused where rows differ from the manifest's.

    Rights come last: an owner may have taken some from itself.
    """
    words = ["--no-tablespaces", *([] if with_owners else ["--no-owner"])]
    words.append(f"--dbname={postgres.conninfo(database)}")
    entries = contents(login, archive)
    rights = [line for line in entries if kind(line) in RIGHTS]
    rest = [line for line in entries if kind(line) not in RIGHTS]
    guests = json.loads(postgres.asked(login, database, statements.LET_IN, dump.manifest.get("owners") or []))
    said = _restored(login, rest, *words, f"--jobs={os.cpu_count() or 1}", archive)
    found, wanted = _rows(login, database, path), dump.manifest["rows"]
    if said:
        found = _mend(login, database, rest, wanted, archive, path, words)
    postgres.asked(login, database, statements.LET_OUT, guests)
    _compare(found, wanted, said)
    postgres.asked(login, database, statements.ANALYZE, path)
    _restored(login, rights, *words, archive)
    return _missing(login, database, entries, with_owners=with_owners)


def search_path(known: dict[str, Any], database: str, owner: str) -> str:
    """Where the application found its names on the lost server."""
    found = {
        (one["role"], one["database"]): entry.partition("=")[2]
        for one in known.get("settings", [])
        for entry in one["settings"]
        if entry.lower().startswith("search_path=")
    }
    for whom in ((owner, database), (owner, None), (None, database), (None, None)):
        if whom in found:
            return str(found[whom])
    return '"$user", public'


def _mend(
    login: Login, database: str, entries: list[str], wanted: dict[str, int], archive: str, path: str, words: list[str]
) -> dict[str, int]:
    """The rows there are after what is not there was said again, with names found as the application finds them: its
    functions need not say schemas, and a CHECK may want what other tables have by now.
    """
    _looks_as_live(archive)
    before: tuple[object, ...] = ()
    views = [line for line in entries if kind(line) == VIEW]
    for _ in range(TRIES):
        found = _rows(login, database, path)
        there = _schema(login, database, with_owners=False) or set()
        again = [line for line in entries if _is_short(line, found, wanted) or _is_absent(line, there)]
        if before == (found, there):
            break
        before = (found, there)
        _restored(login, again + views, *words, archive, path=path)
    return _rows(login, database, path)


def _looks_as_live(archive: str) -> None:
    with open(archive, "r+b") as file:
        at = file.read(BEGINNING).find(NOWHERE)
        if at >= 0:
            file.seek(at)
            file.write(AS_LIVE)


def _is_absent(line: str, there: set[str]) -> bool:
    return kind(line) not in ROWS and named(line, with_owner=False) not in there | {""}


def _is_short(line: str, found: dict[str, int], wanted: dict[str, int]) -> bool:
    """COPY loads all of a table or nothing."""
    if kind(line) != "TABLE DATA":
        return False
    tables = [table for table, rows in wanted.items() if rows and not found.get(table)]
    return named(line, with_owner=False).removeprefix("TABLE DATA ") in {_as_listed(table) for table in tables}


def _as_listed(table: str) -> str:
    """`public."a b"` -> `public a b`."""
    match = TABLE.fullmatch(table)
    return f"{_unquoted(match[1])} {_unquoted(match[2])}" if match else ""


def _restored(login: Login, entries: list[str], *words: str, path: str = "") -> list[str]:
    """What pg_restore says went wrong. It goes on after that: what came of it is looked at, not believed."""
    said = accounts.run_as(login.account, lambda: _with_list(login, entries, words, path)[2])
    # Never the statement after it: that may hold a password.
    errors = [line for line in said.splitlines() if "error:" in line]
    for line in errors[:20]:
        print(line, flush=True)
    return errors


def _with_list(login: Login, entries: list[str], words: Sequence[str], path: str = "") -> tuple[int, str, str]:
    with tempfile.NamedTemporaryFile("w", prefix="fab-list-") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        return postgres.client(login, "pg_restore", f"--use-list={file.name}", *words, search_path=path)


def _rows(login: Login, database: str, path: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(postgres.asked(login, database, statements.ROWS, path))
    return found


def _compare(found: dict[str, int], wanted: dict[str, int], said: list[str]) -> None:
    if found == wanted:
        return
    for table in sorted({*found, *wanted}):
        if found.get(table) != wanted.get(table):
            print(f"{table}: {wanted.get(table)} rows in the manifest, {found.get(table)} in the database", flush=True)
    reason = f": {said[0].partition('error: ')[2]}" if said else ""
    raise Refused(
        f"the database has other rows than the manifest says{reason}",
        f"an extension whose package is missing, or not what was backed up; {OLDER}",
    )


def contents(login: Login, archive: str) -> list[str]:
    """Lines of the list that pg_restore makes to be edited and given back to it."""
    status, output, errors = postgres.client(login, "pg_restore", "--list", archive)
    if status:
        raise Refused(f"it is no archive of pg_dump: {errors.strip()[:300]}", OLDER)
    return [line for line in output.split("\n") if ENTRY.match(line)]


def kind(line: str) -> str:
    found = ENTRY.match(line)
    return found[2] if found else ""


def named(line: str, *, with_owner: bool) -> str:
    """The line without numbers: kind, schema, name, owner; "" for what is no object."""
    found = ENTRY.match(line)
    if not found or found[2] in ("ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE"):
        return ""
    name = found[3] if with_owner else found[3].rpartition(" ")[0]
    return f"{found[2]} {name}"


def _missing(login: Login, database: str, entries: list[str], *, with_owners: bool) -> list[str]:
    """For people: what the archive has and the database has not, or not as the same owner's."""
    there = _schema(login, database, with_owners=with_owners)
    if there is None:
        telling.warn("whether all of the schema is back could not be compared with the archive")
        return []
    wanted = [named(line, with_owner=with_owners) for line in entries if kind(line) not in ROWS]
    empty = {f"{VIEW} {name}" for name in json.loads(postgres.asked(login, database, statements.NOT_FILLED))}
    unfilled = [one for line in entries if (one := named(line, with_owner=False)) in empty]
    return sorted({one for one in wanted if one and one not in there}) + unfilled


def _schema(login: Login, database: str, *, with_owners: bool) -> set[str] | None:
    with _folder_of(login.account) as folder:
        where = postgres.conninfo(database)
        if postgres.client(login, "pg_dump", "-Fc", "--schema-only", f"--file={folder}/dump", where)[0]:
            return None
        return {named(line, with_owner=with_owners) for line in contents(login, f"{folder}/dump")}


@contextmanager
def _folder_of(account: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dump.", dir=fetched.STATE) as folder:
        os.chmod(folder, 0o711)
        os.mkdir(f"{folder}/of", 0o700)
        shutil.chown(f"{folder}/of", account)
        yield f"{folder}/of"


def extensions(login: Login, archive: str, allowed: tuple[str, ...], owner: str) -> list[dict[str, str]]:
    """Of those in the archive, what postgres may make: they are made before there is anything of the application's."""
    if not allowed:
        return []
    lines = [line for line in contents(login, archive) if kind(line) == "EXTENSION"]
    text = accounts.run_as(login.account, lambda: _with_list(login, lines, ("--file=-", archive))[1])
    found = [(_unquoted(name), _unquoted(schema)) for name, schema in EXTENSION.findall(text)]
    return [{"name": name, "schema": schema, "owner": owner} for name, schema in found if name in allowed]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
