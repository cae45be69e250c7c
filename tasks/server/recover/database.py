"""The database of a lost server: made by postgres while it is empty, filled and counted as the role that owns it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from .. import files, postgres, telling
from ..exported import exported
from ..refused import Refused
from ..values.site import Site
from . import content, fetched, left, statements
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
        wanted = content.extensions(login, archive, extensions, theirs)
        postgres.superuser(statements.DROP, name=name)
        make(name, theirs, {**PLAIN, **itself})
        mark(site, name, "begun", dump.manifest["sha256"])
        if wanted:
            postgres.superuser(statements.EXTENSIONS, given=wanted, database=name)
        path = content.search_path(known, was, itself.get("owner") or owner)
        missing = content.fill(login, name, dump, archive, path, with_owners=not rename)
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
    return f"{fetched.STATE}/{site.known_as}-recovered-moment"


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
        words = files.read(f"{fetched.STATE}/{site.known_as}-recovered").decode().split()
    except FileNotFoundError:
        return False
    return len(words) == 3 and words[0] == how and digest in ("", words[1]) and words[2] == number_of(database)


def mark(site: Site, database: str, how: str, digest: str) -> None:
    text = f"{how} {digest} {number_of(database)}\n"
    files.replace(f"{fetched.STATE}/{site.known_as}-recovered", text.encode(), "root", "root", 0o644)


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
