"""The database of a lost server: made by postgres while it is empty, filled and counted as the role that owns it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from .. import accounts, files, postgres, telling
from ..exported import exported
from ..postgres import Login
from ..refused import Refused
from ..values.site import Site
from . import fetched, left, statements
from .fetched import OLDER, Dump
from .settings import split

ELSEWHERE = "recover is for a bare server; fab restore-db puts a database back"
PLAIN: dict[str, Any] = {
    "encoding": "UTF8",
    "collate": "C.UTF-8",
    "ctype": "C.UTF-8",
    "provider": "c",
    "locale": None,
    "connections": -1,
    "comment": None,
    "has_grants": False,
    "grants": [],
}
"""As provisioning makes one."""
EXTENSION = re.compile(
    r'^CREATE EXTENSION IF NOT EXISTS ("(?:[^"]|"")+"|\S+) WITH SCHEMA ("(?:[^"]|"")+"|[^\s;]+);$', re.M
)
RIGHTS = ("ACL", "DEFAULT ACL")
ROWS = ("TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS", "BLOB METADATA", "MATERIALIZED VIEW DATA")
ENTRY = re.compile(
    r"^(\d+); \d+ \d+ (DEFAULT ACL|TABLE DATA|SEQUENCE SET|BLOB METADATA|MATERIALIZED VIEW DATA|\S+) ?(.*)$"
)


@exported
def is_free(site: Site, database: str) -> None:
    """Refused unless there is none, an empty one, or one that a recover filled."""
    if not is_running():
        return
    if has_tables(database) and not any(is_filled(site, database, how) for how in ("begun", "restored")):
        raise Refused(f"the database {database} is here, and not empty", ELSEWHERE)


@exported
def look(site: Site, dumps: str, database: str) -> None:
    """Fact dump: when the newest was taken. What an earlier run took from the archive counts once it is in place."""
    if not is_running() or not is_filled(site, database, "restored"):
        files.remove(moment_of(site))
    found = fetched.dumps_in(f"{fetched.place()}{dumps}")
    if found:
        telling.fact("dump", found[-1].manifest["taken_at"])


@exported
def count_in(site: Site, dumps: str, database: str) -> None:
    """What was made of the archive just now comes after all dumps that were fetched."""
    at = datetime.fromisoformat(files.read(moment_of(site)).decode().strip())
    folder, name = f"{fetched.place()}{dumps}", f"{at.astimezone(timezone.utc):%Y%m%d-%H%M%S}"
    found = fetched.dumps_in(folder)
    one = next((dump for dump in found if dump.name == name), None)
    if one is None:
        if is_filled(site, database, "restored"):
            return
        raise Refused(f"{folder}/{name}.json is not there", "run it again; or --without-archive")
    last = max(dump.sequence for dump in found)
    text = json.dumps({**one.manifest, "sequence": last + 1}, indent=1)
    files.replace(f"{folder}/{name}.json", text.encode(), "root", "root", 0o600)


@exported
def restore(
    site: Site, dumps: str, facts_of: str, account: str, owner: str, rename: bool, extensions: tuple[str, ...]
) -> None:
    """Facts: database. `dumps` is the folder as it was on the lost server, `facts_of` its application.

    `account` runs the clients. The data belongs to whom it belonged, or to `owner` where that is a superuser or is not
    there; with `rename` it is `owner`'s, and so is the name of the database. `extensions` may postgres make.
    What a run that was cut off has left is known by its mark, and dropped.
    """
    if files.entry(moment_of(site)) and is_filled(site, owner, "restored"):
        return
    dump = fetched.newest(dumps)
    was = str(dump.manifest.get("database") or owner)
    name = owner if rename else was
    telling.fact("database", dump.name)
    if has_tables(name) and is_filled(site, name, "restored", dump.manifest["sha256"]):
        return
    if has_tables(name) and not is_filled(site, name, "begun"):
        raise Refused(f"the database {name} is not empty", ELSEWHERE)
    known = fetched.facts(facts_of)
    itself: dict[str, Any] = next((one for one in known.get("databases", []) if one["name"] == was), {})
    theirs = owner if rename else _owner(itself.get("owner") or owner, owner)
    with copied(dump, account) as archive, postgres.login(theirs, account) as login:
        wanted = _extensions(login, archive, extensions, theirs)
        postgres.superuser(statements.DROP, name=name)
        make(name, theirs, {**PLAIN, **itself})
        mark(site, name, "begun", dump.manifest["sha256"])
        if wanted:
            postgres.superuser(statements.EXTENSIONS, given=wanted, database=name)
        missing = fill(login, name, dump, archive, with_owners=not rename)
    left.note(site, "objects", missing)
    finish(site, name, theirs, was, known, itself)
    mark(site, name, "restored", dump.manifest["sha256"])


# --- the database itself ---


def is_running() -> bool:
    """Where PostgreSQL is not installed or down, there is nothing that could be replaced."""
    try:
        postgres.superuser(";\n")
    except (Refused, FileNotFoundError):
        return False
    return True


def moment_of(site: Site) -> str:
    """Says which moment of the archive was taken."""
    return f"{fetched.STATE}/{site.name_on_servers}-recovered-moment"


def has_tables(database: str) -> bool:
    if not number_of(database):
        return False
    return postgres.superuser(statements.HAS_TABLES, database=database).strip() != "0"


def number_of(database: str) -> str:
    """ "" where there is none; another one of the same name has another."""
    return postgres.superuser(statements.NUMBER, name=database).strip()


def is_filled(site: Site, database: str, how: str, digest: str = "") -> bool:
    """`how` is begun or restored; the mark names the very one."""
    try:
        words = files.read(f"{fetched.STATE}/{site.name_on_servers}-recovered").decode().split()
    except FileNotFoundError:
        return False
    return len(words) == 3 and words[0] == how and digest in ("", words[1]) and words[2] == number_of(database)


def mark(site: Site, database: str, how: str, digest: str) -> None:
    text = f"{how} {digest} {number_of(database)}\n"
    files.replace(f"{fetched.STATE}/{site.name_on_servers}-recovered", text.encode(), "root", "root", 0o644)


def make(name: str, owner: str, itself: dict[str, Any]) -> None:
    words = {"encoding": itself["encoding"], "collate": itself["collate"], "ctype": itself["ctype"]}
    text = statements.CREATE + statements.PROVIDERS.get(itself["provider"] or "c", "") + ";\n"
    postgres.superuser(text, name=name, owner=owner, locale=itself["locale"] or "", **words)


def finish(site: Site, name: str, owner: str, was: str, known: dict[str, Any], itself: dict[str, Any]) -> None:
    """What is the database's own, in no dump of its content, and would be in the way while it is filled."""
    own = [
        {"role": one["role"], **setting}
        for one in known.get("settings", [])
        if one["database"] == was
        for setting in split(one["settings"])
    ]
    old = itself.get("owner") or owner
    given = {**PLAIN, **itself, "name": name, "settings": own}
    if old != owner:
        postgres.superuser(statements.FOLLOW, given={"old": old, "new": owner})
    refused = json.loads(postgres.superuser(statements.PROPERTIES, given=given))
    left.note(site, "database", [f"{one};" for one in refused])


def _owner(wanted: str, otherwise: str) -> str:
    if postgres.superuser(statements.OWNER, owner=wanted).strip("\n") == wanted:
        return wanted
    telling.warn(
        f"the database belonged to {wanted}, as which nothing of it can be restored: it belongs to {otherwise}"
    )
    return otherwise


# --- its content ---


@contextmanager
def copied(dump: Dump, account: str) -> Iterator[str]:
    """The archive where `account` may read it, and nobody exchange it: the very bytes that the manifest speaks of."""
    for name in files.names(fetched.STATE):
        if name.startswith("dump."):  # of a run that was killed
            shutil.rmtree(f"{fetched.STATE}/{name}", ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="dump.", dir=fetched.STATE)
    try:
        os.chmod(folder, 0o711)
        path, found = f"{folder}/dump", hashlib.sha256()
        with files.opened(dump.path) as descriptor, open(path, "xb") as copy:
            while block := os.read(descriptor, 1 << 20):
                found.update(block)
                copy.write(block)
        if found.hexdigest() != dump.manifest.get("sha256"):
            raise Refused(f"{dump.path} is not what was written: its SHA-256 is another one", OLDER)
        os.chmod(path, 0o400)
        shutil.chown(path, account)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(login: Login, database: str, dump: Dump, archive: str, *, with_owners: bool) -> list[str]:
    """What is not in it although it is in the archive. Refused where rows differ from the manifest's.

    Rights come last: an owner may have taken some from itself.
    """
    where = f"--dbname={postgres.conninfo(database)}"
    words = ["--no-tablespaces", *([] if with_owners else ["--no-owner"]), where]
    entries = _contents(login, archive)
    rights = [line for line in entries if _kind(line) in RIGHTS]
    rest = [line for line in entries if _kind(line) not in RIGHTS]
    guests = json.loads(postgres.asked(login, database, statements.LET_IN, dump.manifest.get("owners") or []))
    said = _restored(login, rest, *words, f"--jobs={os.cpu_count() or 1}", archive)
    postgres.asked(login, database, statements.LET_OUT, guests)
    _compare_rows(login, database, dump.manifest, said)
    postgres.asked(login, database, statements.ANALYZE)
    _restored(login, rights, *words, archive)
    return _missing(login, database, entries, with_owners=with_owners)


def _restored(login: Login, entries: list[str], *words: str) -> list[str]:
    """What pg_restore says went wrong. It goes on after that: what came of it is looked at, not believed."""
    done = accounts.run_as(login.account, lambda: _with_list(login, entries, words))
    # Never the statement after it: that may hold a password.
    errors = [line for line in done.splitlines() if "error:" in line]
    for line in errors[:20]:
        print(line, flush=True)
    return errors


def _with_list(login: Login, entries: list[str], words: Sequence[str]) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="fab-list-") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        return postgres.client(login, "pg_restore", f"--use-list={file.name}", *words)[2]


def _compare_rows(login: Login, database: str, manifest: dict[str, Any], said: list[str]) -> None:
    found, wanted = json.loads(postgres.asked(login, database, statements.ROWS)), manifest["rows"]
    if found == wanted:
        return
    for table in sorted({*found, *wanted}):
        if found.get(table) != wanted.get(table):
            print(f"{table}: {wanted.get(table)} rows in the manifest, {found.get(table)} in the database", flush=True)
    reason = f": {said[0].partition('error: ')[2]}" if said else ""
    raise Refused(
        f"the database has other rows than the manifest says{reason}", f"it is not what was backed up; {OLDER}"
    )


def _contents(login: Login, archive: str) -> list[str]:
    """Lines of the list that pg_restore makes to be edited and given back to it."""
    status, output, errors = postgres.client(login, "pg_restore", "--list", archive)
    if status:
        raise Refused(f"it is no archive of pg_dump: {errors.strip()[:300]}", OLDER)
    return [line for line in output.split("\n") if ENTRY.match(line)]


def _kind(line: str) -> str:
    found = ENTRY.match(line)
    return found[2] if found else ""


def _missing(login: Login, database: str, entries: list[str], *, with_owners: bool) -> list[str]:
    """For people: what the archive has and the database has not, or not as the same owner's."""
    with tempfile.TemporaryDirectory(prefix="schema.", dir=fetched.STATE) as folder:
        os.chmod(folder, 0o711)
        inner = f"{folder}/of"
        os.mkdir(inner, 0o700)
        shutil.chown(inner, login.account)
        where = postgres.conninfo(database)
        if postgres.client(login, "pg_dump", "-Fc", "--schema-only", f"--file={inner}/dump", where)[0]:
            telling.warn("whether all of the schema is back could not be compared with the archive")
            return []
        there = {_named(line, with_owners) for line in _contents(login, f"{inner}/dump")}
    wanted = [_named(line, with_owners) for line in entries if _kind(line) not in ROWS]
    return sorted({one for one in wanted if one and one not in there})


def _named(line: str, with_owner: bool) -> str:
    """The line without numbers: kind, schema, name, owner."""
    found = ENTRY.match(line)
    if not found or found[2] in ("ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE"):
        return ""
    name = found[3] if with_owner else found[3].rpartition(" ")[0]
    return f"{found[2]} {name}"


def _extensions(login: Login, archive: str, allowed: tuple[str, ...], owner: str) -> list[dict[str, str]]:
    """Of those in the archive, what postgres may make: they are made before there is anything of the application's."""
    if not allowed:
        return []
    lines = [line for line in _contents(login, archive) if _kind(line) == "EXTENSION"]
    done = accounts.run_as(login.account, lambda: _said(login, lines, archive))
    found = [(_unquoted(name), _unquoted(schema)) for name, schema in EXTENSION.findall(done)]
    return [{"name": name, "schema": schema, "owner": owner} for name, schema in found if name in allowed]


def _said(login: Login, entries: list[str], archive: str) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="fab-list-") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        return postgres.client(login, "pg_restore", f"--use-list={file.name}", "--file=-", archive)[1]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
