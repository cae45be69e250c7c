"""Dumps a PostgreSQL database and restores it beside the live one, which it then replaces by rename."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Callable, Iterator

import project_preflight as preflight
from django.db import Error
from project_answer import Refused, first_line, say
from project_archive import of_database
from project_blockers import BACKUP
from project_client import client
from project_hold import at_one_moment, check_nothing_is_hidden, count_rows
from project_mend import statements
from project_names import KEPT, belongs, stamped
from project_rebuild import Copy, Lost, mark, rebuild, rows_lost, told
from project_sessions import fetch, in_each_role, literal, live_name, maintenance, only_one, patient, quote
from project_swap import INSIDE, swap
from project_tolerant import run

SUFFIX = ".dump"
LOCK_WAIT = 60_000  # milliseconds pg_dump waits for a table
MOST_WARNINGS = 20  # that people are shown
PATIENCE = 60  # seconds a finished restore waits for those who hold the live database
# Columns of pg_database differ between versions of the server: the row comes as JSON.
DATABASE = """
    SELECT to_json(d)::text, datdba::regrole::text, spcname
    FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = %s"""
# A superuser's: any other could hold anything.
TEMPLATE = """
    SELECT 1 FROM pg_database t JOIN pg_roles r ON r.oid = t.datdba, pg_database d
    WHERE t.datname = %(template)s AND d.datname = %(live)s AND rolsuper AND t.datistemplate
    AND (t.encoding, t.datcollate, t.datctype) = (d.encoding, d.datcollate, d.datctype)"""
PROPERTIES = """
    SELECT 1, format('ALTER DATABASE %%I CONNECTION LIMIT %%s', %(new)s::text, datconnlimit)
        FROM pg_database WHERE datname = %(live)s AND datconnlimit <> -1
    UNION ALL SELECT 2, format('COMMENT ON DATABASE %%I IS %%L', %(new)s::text, description)
        FROM pg_database, shobj_description(oid, 'pg_database') AS description
        WHERE datname = %(live)s AND description IS NOT NULL
    UNION ALL SELECT 3, format('REVOKE ALL ON DATABASE %%I FROM PUBLIC', %(new)s::text)
        FROM pg_database WHERE datname = %(live)s AND datacl IS NOT NULL
    UNION ALL SELECT 4, format('GRANT %%s ON DATABASE %%I TO %%s%%s', privilege_type, %(new)s::text,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
        FROM pg_database, aclexplode(datacl) WHERE datname = %(live)s
    ORDER BY 1"""
SETTINGS = """
    SELECT nullif(setrole, 0)::regrole::text, unnest(setconfig)
    FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s"""


# --- what the restore point is made of ---


def size(connection) -> int:
    return fetch(connection, "SELECT pg_database_size(current_database())")[0][0]


def rows_now(connection) -> dict:
    with closing(patient(connection)) as session:
        return count_rows(session)


def dump(connection, path: Path) -> dict:
    return at_one_moment(connection, lambda *held: dumped(*held, path))


def dumped(session, snapshot: str, watch: Callable, path: Path) -> dict:
    """The rows are those of the dump: counted later, a busy database has others."""
    check_nothing_is_hidden(session)
    preflight.check_objects(session)
    live, name = live_name(session), f"{BACKUP}: pg_dump {os.getpid()}"
    words = ("-Fc", "-Z1", f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}", f"--file={path}")
    warnings = client(session, "pg_dump", *words, database=live, name=name, watch=lambda: watch(name))
    migrations = "SELECT app || '.' || name FROM django_migrations ORDER BY 1"
    has_any = fetch(session, "SELECT to_regclass('django_migrations') IS NOT NULL")[0][0]
    return {
        "database": live,
        "server_version": fetch(session, "SHOW server_version")[0][0],
        "encoding": fetch(session, "SHOW server_encoding")[0][0],
        "rows": count_rows(session),
        **preflight.needs(session),
        "applied": [name for (name,) in fetch(session, migrations)] if has_any else [],
        "remarks": warnings,
    }


def read_whole(connection, path: Path) -> None:
    """Only writing it out to nowhere reads a whole archive: `--list` says yes to one cut in half."""
    client(connection, "pg_restore", "--file=/dev/null", str(path))


# --- going back to it ---


def check_restore(connection, data: Path, manifest: dict) -> None:
    """Only the beginning of the file is read: its SHA-256 speaks for the rest, and restoring it beside reads it all."""
    client(connection, "pg_restore", "--list", "--file=/dev/null", str(data))
    preflight.check(connection, manifest)


def check_swap(connection) -> None:
    preflight.check_rights(connection, {"owners": []})
    preflight.check_holders(connection, live_name(connection))


def restore(connection, data: Path, manifest: dict, promise: Callable[[str], None], hold: str) -> dict:
    """`promise` is told what will be kept before it is; `hold` is a unit that holds requests while it runs."""
    live = live_name(connection)
    kept = stamped(live, "before")
    with restored_beside(connection, data, manifest) as (_, beside, done):
        preflight.check_holders(connection, live, PATIENCE)
        lost = carry_properties(connection, live, beside)
        promise(kept)
        remarks = swap(connection, live, beside, kept, hold)
    remarks += [f"not restored (missing privileges): {one}" for one in [*told(done["left_out"]), *lost]]
    remarks += done["warnings"]
    return {"kept": kept, **done, "not_carried": lost, "remarks": remarks}


def rehearse(connection, data: Path, manifest: dict, keep: bool) -> dict:
    """As restore, without the swap; what came of it stays only where somebody wants to look at it."""
    with restored_beside(connection, data, manifest) as (control, beside, done):
        scratch = stamped(live_name(connection), "scratch")
        if keep:
            fetch(control, f"ALTER DATABASE {quote(beside)} RENAME TO {quote(scratch)}")
        else:
            drop(control, beside)
    return {"scratch": scratch if keep else "", **done}


@contextmanager
def restored_beside(connection, data: Path, manifest: dict) -> Iterator[tuple]:
    """(session, name, what came of it) of a checked copy beside the live one; it is gone again if the block fails."""
    with empty_beside(connection, "restore") as (control, beside):
        warnings: set[str] = set()
        lost = rebuilt(connection, beside, data, manifest["rows"], warnings)
        check_lost(lost, manifest)
        rows = check_rows(connection, beside, manifest["rows"])
        left_out = [*(one.to_json() for one in lost), *not_in_archive(manifest)]
        yield control, beside, {"rows": rows, "left_out": left_out, "warnings": sorted(warnings)[:MOST_WARNINGS]}


@contextmanager
def empty_beside(connection, word: str) -> Iterator[tuple]:
    """(session, name) of a database like the live one; it is gone again if the block fails."""
    live = live_name(connection)
    beside = stamped(live, word)
    with closing(maintenance(connection)) as control, only_one(control, f"{word} of {live}"):
        drop_leftovers(control, live, word)
        try:
            create_like(control, live, beside)
            yield control, beside
        except BaseException:
            drop_if_possible(connection, beside)
            raise


def rebuilt(connection, beside: str, data: Path, rows: dict | None, warnings: set[str] | None = None) -> list[Lost]:
    """What could not be made of the archive; without `rows` only its schema is made."""
    with closing(patient(connection, beside)) as session:
        copy = opened_copy(connection, session, beside, data, warnings)
        return rebuild(copy, lambda: count_rows(session), rows)


def opened_copy(connection, session, name: str, data: Path, warnings: set[str] | None = None) -> Copy:
    path = fetch(connection, "SHOW search_path")[0][0]
    return Copy(session, name, data, path, lambda *words, **more: run(connection, *words, warnings=warnings, **more))


def check_lost(lost: list[Lost], manifest: dict) -> None:
    """What our role may not make, and what was known of this backup, is only said."""
    known = {one["what"] for one in manifest.get("left_out", [])}
    wrong = [one for one in lost if not one.is_excused and one.what not in known]
    if wrong:
        named = "; ".join(f"{one.what} ({one.reason or 'nobody said why'})" for one in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Refused(f"Not everything of it can be made: {named}{more}.", "Nothing was switched; name another one.")


def undo(connection, kept: str, promise: Callable[[str], None], hold: str) -> dict:
    live = live_name(connection)
    undone = stamped(live, "undone")
    with closing(maintenance(connection)) as control, only_one(control, f"restore of {live}"):
        if not is_kept(connection, kept):
            raise Refused(f"There is no database {kept} that a restore kept.", "fab backups names the one there is.")
        promise(undone)
        remarks = swap(connection, live, kept, undone, hold)
    return {"kept": undone, "remarks": remarks}


def is_kept(connection, name: str) -> bool:
    """Never one of another application."""
    there = fetch(connection, "SELECT 1 FROM pg_database WHERE datname = %s", [name])
    return bool(there) and belongs(name, live_name(connection), *KEPT)


def standing_beside(connection) -> list[tuple]:
    """(name, word, bytes) of what restores kept, and of what somebody wanted to look at."""
    live = live_name(connection)
    return [
        (name, word, fetch(connection, "SELECT pg_database_size(%s)", [name])[0][0])
        for (name,) in fetch(connection, preflight.STANDS_BESIDE)
        for word in (*KEPT, "scratch")
        if belongs(name, live, word)
    ]


def drop_beside(connection, name: str) -> None:
    with closing(maintenance(connection)) as control, only_one(control, f"restore of {live_name(connection)}"):
        drop(control, name)


def drop_leftovers(control, live: str, word: str) -> None:
    """Databases of those that were killed; nobody else can be making one while we hold the lock."""
    for (name,) in fetch(control, preflight.STANDS_BESIDE):
        if belongs(name, live, word):
            say(f"dropping {name}, left by a {word} that was cut off")
            drop(control, name)


def drop(control, name: str) -> None:
    """With what still fills it: a pg_restore outlives a killed run. Without FORCE, which autovacuum makes fail."""
    for _ in in_each_role(control):
        fetch(control, INSIDE, [[name], True, 0])
    fetch(control, f"DROP DATABASE IF EXISTS {quote(name)}")  # ends autovacuum, and waits up to 5 s for all to be gone


def drop_if_possible(connection, name: str) -> None:
    """What made the restore fail may be in the way of this too, and is what people have to hear of."""
    try:
        with closing(maintenance(connection)) as control:
            drop(control, name)
    except (Error, Refused) as error:
        say(f"{name} is left, and the next restore drops it: {first_line(error)}")


def create_like(control, live: str, beside: str) -> None:
    """An empty database of the same owner, encoding, locale and tablespace."""
    row, owner, space = fetch(control, DATABASE, [live])[0]
    facts = json.loads(row)
    words = [
        f"CREATE DATABASE {quote(beside)} OWNER {owner} TEMPLATE {template_for(control, live)}"
        f" ENCODING {int(facts['encoding'])}",
        f"LC_COLLATE {literal(facts['datcollate'])} LC_CTYPE {literal(facts['datctype'])}",
    ]
    kind = {"i": "ICU", "b": "BUILTIN"}.get(facts.get("datlocprovider", "c"))
    if kind:
        locale = facts.get("datlocale") or facts["daticulocale"]
        words.append(f"LOCALE_PROVIDER {kind} {kind}_LOCALE {literal(locale)}")
    if space != "pg_default":
        words.append(f"TABLESPACE {quote(space)}")
    fetch(control, " ".join(words))


def template_for(control, live: str) -> str:
    """That of fab provision, which has the extensions that we may not create, where there is one and it fits."""
    name = f"{live}_template"
    return quote(name) if fetch(control, TEMPLATE, {"live": live, "template": name}) else "template0"


def make_anew(connection, data: Path, manifest: dict) -> list[str]:
    """An empty database where one was dropped, as the backup says it was; returns what of that we may not say."""
    name, refused = connection.settings_dict["NAME"], []
    entries = of_database(data) if manifest["database"] == name else []
    plain = f"CREATE DATABASE {quote(name)} TEMPLATE template0 ENCODING {literal(manifest['encoding'])};"
    create = next((entry.statement for entry in entries if entry.kind == "DATABASE"), plain)
    with closing(maintenance(connection)) as control:
        try:
            fetch(control, create)
        except Error as error:
            user = fetch(control, "SELECT current_user")[0][0]
            raise Refused(
                f"The live database is gone, and this role may not make it anew: {first_line(error)}.",
                f"As postgres: {create.strip()} ALTER DATABASE {quote(name)} OWNER TO {quote(user)}; then again.",
            ) from None
        given = [
            f"ALTER DATABASE {quote(name)} OWNER TO {quote(one.owner)}" for one in entries if one.kind == "DATABASE"
        ]
        for statement in [
            *(part for one in entries if one.kind != "DATABASE" for part in statements(one.statement)),
            *given,
        ]:
            if not accepted(control, [(statement, None)], "COMMIT"):
                refused.append(f"{statement};")
    return refused


def check_rows(connection, database: str, expected: dict) -> int:
    with closing(patient(connection, database)) as session:
        rows = count_rows(session)
        if rows != expected:
            raise Refused("The restored rows are not those of the manifest.", "Nothing was switched; name another one.")
        fetch(session, "ANALYZE")  # without statistics the first hour is slow
    return sum(rows.values())


def preview(connection, data: Path, manifest: dict) -> dict:
    """What `restore` would have to leave to a superuser; tried on the live database, and taken back."""
    live = live_name(connection)
    lost = carry_properties(connection, live, live, ending="ROLLBACK")
    left_out = [*schema_tried(connection, data), *extension_rows(connection, data), *not_in_archive(manifest)]
    return {"left_out": left_out, "not_carried": lost}


def extension_rows(connection, data: Path) -> list[dict]:
    return [one.to_json() for one in rows_lost(opened_copy(connection, connection, "", data))]


def not_in_archive(manifest: dict) -> list[dict]:
    return [one for one in manifest.get("left_out", []) if not one.get("in_archive", True)]


def tried(connection, data: Path, earlier: list[dict]) -> dict:
    """What a restore of `data` would leave out, for its manifest: its schema is made beside the live database and
    dropped again, but where it is the same as in one of the `earlier` manifests.
    """
    drop_trials(connection)
    known = [*extension_rows(connection, data), *preflight.not_dumped(connection)]
    facts = {"schema": schema_mark(connection, data), "left_out": known}
    for manifest in earlier:
        if manifest.get("schema") == facts["schema"] and isinstance(manifest.get("tried"), list):
            return {**facts, "tried": manifest["tried"], "left_out": facts["left_out"] + manifest["tried"]}
    user, creates, _ = fetch(connection, preflight.RIGHTS)[0]
    if not creates:
        return {**facts, "schema": "", "untried": f"as postgres: ALTER ROLE {quote(user)} CREATEDB;"}
    try:
        facts["tried"] = schema_tried(connection, data)
        facts["left_out"] += facts["tried"]
    except (Error, Refused) as error:
        facts.update(schema="", untried=first_line(error))
    return facts


def drop_trials(connection) -> None:
    """Of backups that were killed: the next trial may be many backups away."""
    live = live_name(connection)
    if any(belongs(name, live, "trial") for (name,) in fetch(connection, preflight.STANDS_BESIDE)):
        try:
            with closing(maintenance(connection)) as control, only_one(control, f"trial of {live}"):
                drop_leftovers(control, live, "trial")
        except (Error, Refused) as error:
            say(f"what a killed backup left is not dropped now: {first_line(error)}")


def schema_tried(connection, data: Path) -> list[dict]:
    with empty_beside(connection, "trial") as (control, beside):
        lost = rebuilt(connection, beside, data, None)
        drop(control, beside)
    return [one.to_json() for one in lost]


def schema_mark(connection, data: Path) -> str:
    """The same for the same schema where our role may do the same."""
    return mark(data, fetch(connection, preflight.STANDING_HERE)[0])


def carry_properties(connection, live: str, target: str, ending: str = "COMMIT") -> list[str]:
    """Give `target` what is of a database and in no dump of its content; returns the statements that we may not say."""
    refused = []
    with closing(maintenance(connection)) as session:
        for _, text in fetch(session, PROPERTIES, {"new": target, "live": live}):
            if not accepted(session, [(text, None)], ending):
                refused.append(f"{text.replace(target, live, 1)};")
        for role, entry in fetch(session, SETTINGS, [live]):
            name, _, value = entry.partition("=")
            whom = f"ROLE {role} IN DATABASE {{}}" if role else "DATABASE {}"
            # FROM CURRENT takes a list such as search_path as it is; written out, it would need its own quoting
            alter = f"ALTER {whom.format(quote(target))} SET {name} FROM CURRENT"
            if not accepted(session, [("SELECT set_config(%s, %s, true)", [name, value]), (alter, None)], ending):
                refused.append(f"ALTER {whom.format(quote(live))} SET {name} TO {literal(value)};")
    return refused


def accepted(session, steps: list[tuple], ending: str) -> bool:
    fetch(session, "BEGIN")
    try:
        for statement, parameters in steps:
            fetch(session, statement, parameters)
    except Error as error:
        fetch(session, "ROLLBACK")
        say(f"not carried over: {first_line(error)}")
        return False
    fetch(session, ending)
    return True
