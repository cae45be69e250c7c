"""Dumps a PostgreSQL database and restores it beside the live one, which it then replaces by rename."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Iterator

from django.db import Error
from project_answer import Refused, first_line, say

SUFFIX = ".dump"
LOCK_WAIT = 60_000  # milliseconds pg_dump waits for a table, and a rename for the database
LONGEST_NAME = 63  # bytes of a PostgreSQL identifier
STAMP = 20  # digits of a UTC time down to the microsecond
MAINTENANCE = ("postgres", "template1")  # a database cannot be renamed from inside
LOCK_SPACE = 0x66616272  # any number, the same on every host
PARAMETERS = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "database": "PGDATABASE",
    "service": "PGSERVICE",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
LOCK_HOLDER = """
    SELECT concat(usename, ' from ', coalesce(host(client_addr), 'this host'), ' since ', backend_start)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = %s AND objid = hashtext(%s)::bit(32)::bigint AND granted"""
# What pg_dump dumps: not the tables of extensions.
TABLES = """
    SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1"""
RIGHTS = """
    SELECT current_user, rolsuper OR rolcreatedb, datdba::regrole::text, pg_has_role(datdba, 'USAGE')
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"""
OTHER_OWNERS = """
    SELECT DISTINCT relowner::regrole::text FROM pg_class
    WHERE relkind IN ('r', 'p', 'v', 'S', 'm') AND NOT pg_has_role(relowner, 'USAGE')
    AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1"""
# The type of a session that is not ours is hidden from us: NULL.
HOLDERS = """
    SELECT format('session %s of %s (%s)', pid, usename, application_name)
        FROM pg_stat_activity JOIN pg_roles holder ON holder.oid = usesysid
        JOIN pg_roles me ON me.rolname = current_user
        WHERE datname = current_database() AND coalesce(backend_type, 'client backend') = 'client backend'
        AND NOT me.rolsuper
        AND (holder.rolsuper OR NOT (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))
    UNION ALL SELECT format('prepared transaction %s', gid)
        FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL SELECT format('replication slot %s', slot_name)
        FROM pg_replication_slots WHERE database = current_database()
    UNION ALL SELECT format('subscription %s', subname)
        FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()"""
# Columns of pg_database differ between versions of the server: the row comes as JSON.
DATABASE = """
    SELECT to_json(d)::text, datdba::regrole::text, spcname
    FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = %s"""
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


# --- sessions ---


def separate(connection, database: str = ""):
    """Another session with the same settings, perhaps to another database; never of a pool, which is bound to one."""
    other = connection.copy()
    options = {name: value for name, value in other.settings_dict["OPTIONS"].items() if name != "pool"}
    other.settings_dict.update(OPTIONS=options, AUTOCOMMIT=True, NAME=database or other.settings_dict["NAME"])
    return other


def maintenance(connection):
    """A session to a database that is not the live one."""
    reasons = []
    for database in MAINTENANCE:
        other = separate(connection, database)
        try:
            other.ensure_connection()
        except Error as error:
            reasons.append(first_line(error))
        else:
            return other
    hint = "A database is renamed from another one. As postgres: GRANT CONNECT ON DATABASE postgres to this role."
    raise Refused(f"No way into {' or '.join(MAINTENANCE)}: {reasons[0]}", hint)


def fetch(connection, statement: str, parameters: object = None) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def only_one(connection, work: str) -> Iterator[None]:
    """Hold an advisory lock on a session of its own: it ends with the session, however that ends."""
    with closing(separate(connection)) as session:
        if not fetch(session, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK_SPACE, work])[0][0]:
            holder = fetch(session, LOCK_HOLDER, [LOCK_SPACE, work]) or [("it has just ended",)]
            raise Refused(f"Another {work} is running ({holder[0][0]}).", "Wait for it, then try again.", kind="locked")
        yield


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- what the restore point is made of ---


def live_name(connection) -> str:
    return fetch(connection, "SELECT current_database()")[0][0]


def size(connection) -> int:
    return fetch(connection, "SELECT pg_database_size(current_database())")[0][0]


def count_rows(connection) -> dict:
    tables = [table for (table,) in fetch(connection, TABLES)]
    return {table: fetch(connection, f"SELECT count(*) FROM ONLY {table}")[0][0] for table in tables}


def client(connection, program: str, *words: str) -> None:
    """Run pg_dump or pg_restore of the server's own version; who we are goes in its environment, never in argv."""
    major = connection.pg_version // 10000
    own = f"/usr/lib/postgresql/{major}/bin/{program}"
    path = own if os.path.exists(own) else shutil.which(program)
    if path is None:
        raise Refused(f"{program} is not installed.", f"apt install postgresql-client-{major}")
    given = connection.get_connection_params()
    known = {PARAMETERS[name]: str(value) for name, value in given.items() if name in PARAMETERS}
    done = subprocess.run(
        [path, *words],
        env={**os.environ, **known},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        say(done.stderr[-4000:])
        told = next((line for line in done.stderr.splitlines() if "error:" in line), f"exit {done.returncode}")
        hint = "Nothing was switched; the lines on stderr say more."
        if program == "pg_dump" and "permission denied" in told:
            user = fetch(connection, "SELECT current_user")[0][0]
            hint = f"A table belongs to another role. As postgres: GRANT pg_read_all_data TO {quote(user)};"
        raise Refused(f"{program} failed: {told}", hint)


def dump(connection, path: Path) -> dict:
    """Dump, and count rows in the dump's own snapshot: counted later, a busy database has others."""
    with closing(separate(connection)) as session:
        fetch(session, "SET statement_timeout = 0")
        fetch(session, "SET idle_in_transaction_session_timeout = 0")
        fetch(session, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = fetch(session, "SELECT pg_export_snapshot()")[0][0]
        limits = (f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}")
        client(session, "pg_dump", "-Fc", "-Z1", *limits, f"--file={path}")
        rows = count_rows(session)
        migrations = "SELECT app || '.' || name FROM django_migrations ORDER BY 1"
        return {
            "database": live_name(session),
            "server_version": fetch(session, "SHOW server_version")[0][0],
            "encoding": fetch(session, "SHOW server_encoding")[0][0],
            "rows": rows,
            "applied": [name for (name,) in fetch(session, migrations)] if "public.django_migrations" in rows else [],
        }


def read_whole(connection, path: Path) -> None:
    """Only writing it out to nowhere reads a whole archive: `--list` says yes to one cut in half."""
    client(connection, "pg_restore", "--file=/dev/null", str(path))


# --- going back to it ---


def check_swap(connection) -> None:
    """Refuse before a long restore what would fail after it: missing rights, with the exact grants, and holders."""
    live = live_name(connection)
    user, creates, owner, owned = fetch(connection, RIGHTS)[0]
    grants = [] if creates else [f"ALTER ROLE {quote(user)} CREATEDB;"]
    owners = {name for (name,) in fetch(connection, OTHER_OWNERS)} | (set() if owned else {owner})
    grants += [f"GRANT {name} TO {quote(user)};" for name in sorted(owners)]
    if grants:
        error = f"The role {user} may not restore {live} beside itself and rename it."
        raise Refused(error, "As postgres: " + " ".join(grants), grants=grants)
    held = ", ".join(name for (name,) in fetch(connection, HOLDERS))
    if held:
        raise Refused(f"The database cannot be renamed because of {held}.", "End what holds it, then try again.")


def restore(connection, data: Path, manifest: dict) -> dict:
    live = live_name(connection)
    kept = stamped(live, "before")
    with restored_beside(connection, data, manifest) as (_, beside, rows):
        lost = carry_properties(connection, live, beside)
        swap(connection, live, beside, kept)
    return {"kept": kept, "rows": rows, "not_carried": lost}


def rehearse(connection, data: Path, manifest: dict, keep: bool) -> dict:
    """As restore, without the swap; what came of it stays only where somebody wants to look at it."""
    with restored_beside(connection, data, manifest) as (control, beside, rows):
        scratch = stamped(live_name(connection), "scratch")
        if keep:
            fetch(control, f"ALTER DATABASE {quote(beside)} RENAME TO {quote(scratch)}")
        else:
            drop(control, beside)
    return {"scratch": scratch if keep else "", "rows": rows}


@contextmanager
def restored_beside(connection, data: Path, manifest: dict) -> Iterator[tuple]:
    """(session, name, rows) of a checked copy beside the live database; it is gone again if the block fails."""
    live = live_name(connection)
    beside = stamped(live, "restore")
    with closing(maintenance(connection)) as control, only_one(control, f"restore of {live}"):
        drop_leftovers(control, live)
        try:
            create_like(control, live, beside)
            jobs = f"--jobs={os.cpu_count() or 1}"
            client(connection, "pg_restore", "--exit-on-error", jobs, f"--dbname={beside}", str(data))
            yield control, beside, check_rows(connection, beside, manifest["rows"])
        except BaseException:
            drop(control, beside)
            raise


def undo(connection, kept: str) -> dict:
    live = live_name(connection)
    undone = stamped(live, "undone")
    with closing(maintenance(connection)) as control, only_one(control, f"restore of {live}"):
        if kept == live or not fetch(control, "SELECT 1 FROM pg_database WHERE datname = %s", [kept]):
            raise Refused(f"There is no database {kept}.", "Name the one that restore said it kept.")
        swap(connection, live, kept, undone)
    return {"kept": undone}


def stamped(name: str, word: str) -> str:
    ending = f"_{word}_{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}"
    return name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending


def drop_leftovers(control, live: str) -> None:
    """Databases of restores that were killed; nobody else can be making one while we hold the lock."""
    ours = stamped(live, "restore")[:-STAMP]
    for (name,) in fetch(control, "SELECT datname FROM pg_database WHERE pg_has_role(datdba, 'USAGE')"):
        if name.startswith(ours) and len(name) == len(ours) + STAMP and name[-STAMP:].isdigit():
            drop(control, name)


def drop(control, name: str) -> None:
    fetch(control, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    fetch(control, f"DROP DATABASE IF EXISTS {quote(name)}")  # waits up to 5 s for the sessions to be gone


def create_like(control, live: str, beside: str) -> None:
    """An empty database of the same owner, encoding, locale and tablespace."""
    row, owner, space = fetch(control, DATABASE, [live])[0]
    facts = json.loads(row)
    words = [
        f"CREATE DATABASE {quote(beside)} OWNER {owner} TEMPLATE template0 ENCODING {int(facts['encoding'])}",
        f"LC_COLLATE {literal(facts['datcollate'])} LC_CTYPE {literal(facts['datctype'])}",
    ]
    kind = {"i": "ICU", "b": "BUILTIN"}.get(facts.get("datlocprovider", "c"))
    if kind:
        locale = facts.get("datlocale") or facts["daticulocale"]
        words.append(f"LOCALE_PROVIDER {kind} {kind}_LOCALE {literal(locale)}")
    if space != "pg_default":
        words.append(f"TABLESPACE {quote(space)}")
    fetch(control, " ".join(words))


def check_rows(connection, database: str, expected: dict) -> int:
    with closing(separate(connection, database)) as session:
        rows = count_rows(session)
        if rows != expected:
            raise Refused("The restored rows are not those of the manifest.", "Nothing was switched; name another one.")
        fetch(session, "ANALYZE")  # without statistics the first hour is slow
    return sum(rows.values())


def carry_properties(connection, live: str, beside: str) -> list[str]:
    """Give the new database what is of a database and in no dump of its content; returns what was refused us."""
    with closing(maintenance(connection)) as session:
        changes = [[(text, None)] for _, text in fetch(session, PROPERTIES, {"new": beside, "live": live})]
        for role, entry in fetch(session, SETTINGS, [live]):
            name, _, value = entry.partition("=")
            whom = f"ROLE {role} IN DATABASE {quote(beside)}" if role else f"DATABASE {quote(beside)}"
            # FROM CURRENT takes a list such as search_path as it is; written out, it would need its own quoting
            alter = (f"ALTER {whom} SET {name} FROM CURRENT", None)
            changes.append([("SELECT set_config(%s, %s, true)", [name, value]), alter])
        return [steps[-1][0] for steps in changes if not accepted(session, steps)]


def accepted(session, steps: list[tuple]) -> bool:
    fetch(session, "BEGIN")
    try:
        for statement, parameters in steps:
            fetch(session, statement, parameters)
    except Error as error:
        fetch(session, "ROLLBACK")
        say(f"not carried over: {first_line(error)}")
        return False
    fetch(session, "COMMIT")
    return True


def swap(connection, live: str, incoming: str, outgoing: str) -> None:
    """live becomes outgoing and incoming becomes live, in one transaction, while sessions are ended from another.

    The first rename's lock keeps newcomers out, and PostgreSQL waits 5 s for those inside to go. ALLOW_CONNECTIONS
    false would shut them out as well, but cannot be in the transaction: killed in between, it would leave the live
    database closed to everybody. Here there is no state in between.
    """
    connection.close()
    done = threading.Event()
    with closing(maintenance(connection)) as renamer, closing(maintenance(connection)) as ender:
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
            hint = "Somebody holds the database: end that session, then try again."
            raise Refused(f"The swap was refused, and nothing was switched: {first_line(error)}", hint) from error
        finally:
            done.set()
            helper.join()


def end_sessions(ender, databases: list[str], done: threading.Event) -> None:
    while not done.wait(0.05):
        try:
            fetch(ender, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)", [databases])
        except Error as error:
            say(f"ending sessions: {first_line(error)}")
