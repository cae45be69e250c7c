"""Looks before a restore at what a PostgreSQL would refuse in the middle of it: rights, holders, versions, room."""

from __future__ import annotations

import os
import time
from pathlib import Path

from project_answer import Refused
from project_names import KEPT, belongs
from project_sessions import fetch, literal, live_name, quote

# Objects of extensions belong to whoever made the extension, and come with it.
OWNERS = """
    SELECT DISTINCT owner::regrole::text FROM (
        SELECT 'pg_class'::regclass, oid, relowner, relnamespace FROM pg_class
            WHERE relkind IN ('r', 'p', 'v', 'S', 'm', 'f', 'c') AND relpersistence <> 't'
        UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, pronamespace FROM pg_proc
        UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, oid FROM pg_namespace WHERE nspname <> 'public'
        UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type WHERE typtype IN ('e', 'd', 'r')
        UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, collnamespace FROM pg_collation
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, cfgnamespace FROM pg_ts_config
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, dictnamespace FROM pg_ts_dict
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, stxnamespace FROM pg_statistic_ext
        UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner, 0 FROM pg_publication
    ) AS object (kind, id, owner, namespace)
    WHERE namespace::regnamespace::text !~ '^(pg_|information_schema)'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = kind AND objid = id AND deptype = 'e') ORDER BY 1"""
# Also those of grants and policies.
ROLES = """
    SELECT DISTINCT refobjid::regrole::text FROM pg_shdepend JOIN pg_database d ON d.oid = dbid
    WHERE datname = current_database() AND refclassid = 'pg_authid'::regclass ORDER BY 1"""
EXTENSIONS = "SELECT extname FROM pg_extension WHERE oid >= 16384 ORDER BY 1"  # below: of every database
RIGHTS = """
    SELECT current_user, rolsuper OR rolcreatedb, datdba::regrole::text
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"""
STANDING = """
    SELECT name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'USAGE'), false), coalesce(r.rolsuper, false)
    FROM unnest(%s::text[]) AS name LEFT JOIN pg_roles r ON r.oid = to_regrole(name) ORDER BY 1"""
ABSENT = """
    SELECT wanted FROM unnest(%s::text[]) AS wanted
    WHERE NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = wanted) ORDER BY 1"""
# What decides what a restore by us would leave out, beside the schema itself.
STANDING_HERE = """
    SELECT current_setting('server_version_num'), rolname, rolsuper, rolcreatedb,
        (SELECT array_agg(r.rolname ORDER BY 1) FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE')),
        (SELECT array_agg(concat(name, version, superuser, trusted) ORDER BY 1) FROM pg_available_extension_versions
            WHERE name IN (SELECT extname FROM pg_extension))
    FROM pg_roles WHERE rolname = current_user"""
# pg_dump leaves out what only a superuser sees, with a warning.
NOT_DUMPED = """
    SELECT concat('subscription ', subname), 'CREATE SUBSCRIPTION: only a superuser sees its connection'
        FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    UNION ALL SELECT concat('options of the user mapping of ', usename, ' for server ', srvname),
        'they may hold a password, so only their own role and superusers see them'
        FROM pg_user_mappings m WHERE umoptions IS NULL AND usename <> current_user
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        AND EXISTS (SELECT FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw
                    WHERE s.oid = srvid AND fdwname <> 'file_fdw')
    ORDER BY 1"""
OBJECTS_OF_OTHERS = """
    SELECT pg_get_userbyid(lomowner), count(*), pg_has_role(lomowner, current_user::regrole, 'MEMBER')
    FROM pg_largeobject_metadata WHERE NOT pg_has_role(lomowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM aclexplode(lomacl) WHERE privilege_type = 'SELECT'
                    AND (grantee = 0 OR pg_has_role(grantee, 'USAGE')))
    GROUP BY lomowner ORDER BY 1"""
# The type of a session that is not ours is hidden from us: NULL.
HOLDERS = """
    SELECT format('session %%s of %%s (%%s)', pid, usename, application_name)
        FROM pg_stat_activity JOIN pg_roles holder ON holder.oid = usesysid
        WHERE datname = %(live)s AND coalesce(backend_type, 'client backend') = 'client backend'
        AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname IN (session_user, current_user) AND (rolsuper
            OR NOT holder.rolsuper AND (pg_has_role(rolname, usesysid, 'USAGE')
                OR pg_has_role(rolname, 'pg_signal_backend', 'USAGE'))))
    UNION ALL SELECT format('prepared transaction %%s', gid) FROM pg_prepared_xacts WHERE database = %(live)s
    UNION ALL SELECT format('replication slot %%s', slot_name) FROM pg_replication_slots WHERE database = %(live)s
    UNION ALL SELECT format('subscription %%s', subname)
        FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = %(live)s"""
# A restore writes its data a second time as WAL, of which checkpoints leave max_wal_size, unless somebody waits for it.
WAL = """
    SELECT CASE WHEN current_setting('archive_mode') <> 'off' OR EXISTS (SELECT FROM pg_replication_slots)
        THEN %(data)s::bigint ELSE least(%(data)s, pg_size_bytes(current_setting('max_wal_size'))) END"""
PLACE = """
    SELECT pg_backend_pid(), session_user, pg_tablespace_location(dattablespace)
    FROM pg_database WHERE datname = current_database()"""
STANDS_BESIDE = "SELECT datname FROM pg_database WHERE pg_has_role(datdba, 'USAGE') ORDER BY 1"


def needs(session) -> dict:
    """For the manifest: what another server must have before this database fits there."""
    names = {"owners": OWNERS, "roles": ROLES, "extensions": EXTENSIONS}
    return {name: [found for (found,) in fetch(session, statement)] for name, statement in names.items()}


def not_dumped(session) -> list[dict]:
    return [{"what": what, "statement": "", "reason": reason, "follows": False, "in_archive": False}
            for what, reason in fetch(session, NOT_DUMPED)]  # fmt: skip


def check_objects(session) -> None:
    """Large objects are read by their owner and whom he lets: no right to read all data covers them."""
    found = fetch(session, OBJECTS_OF_OTHERS)
    if not found:
        return
    live, user = quote(live_name(session)), quote(fetch(session, "SELECT current_user")[0][0])
    hints = []
    for name, _, is_member in found:
        if not is_member:
            hints.append(f"GRANT {quote(name)} TO {user};")
            continue
        hints.append(
            f"SELECT format('ALTER LARGE OBJECT %s OWNER TO {user}', oid) FROM pg_largeobject_metadata WHERE lomowner ="
            f" {literal(quote(name))}::regrole \\gexec -- and so that its next ones are {user}'s:"
            f" ALTER ROLE {quote(name)} IN DATABASE {live} SET role TO {user};"
        )
    counted = ", ".join(f"{count:,} of {name}" for name, count, _ in found)
    raise Refused(
        f"Large objects that this role may not read would not be in a backup: {counted}.",
        f"As postgres, in psql {live}: " + " ".join(hints),
    )


def check(connection, manifest: dict) -> None:
    """Refuse before a long restore what would fail in it or after it, each with the next step."""
    check_version(connection, manifest)
    check_encoding(connection, manifest)
    check_extensions(connection, manifest.get("extensions", []))
    check_rights(connection, manifest)
    check_room(connection, manifest.get("database_bytes", 0))


def check_version(connection, manifest: dict) -> None:
    """An older server may read a newer dump and then stumble over its first new word, or worse, over none."""
    theirs, ours = int(manifest["server_version"].split(".")[0]), connection.pg_version // 10000
    if theirs > ours:
        raise Refused(
            f"It was dumped from PostgreSQL {theirs}, and this server is {ours}: newer dumps do not fit older servers.",
            f"Restore it where PostgreSQL is {theirs} or newer, or name another one. Nothing was touched.",
        )


def check_encoding(connection, manifest: dict) -> None:
    ours = fetch(connection, "SHOW server_encoding")[0][0]
    if manifest["encoding"] != ours:
        raise Refused(
            f"Its text is {manifest['encoding']}, the live database holds {ours}: letters would be lost or refused.",
            f"Name a backup in {ours}, or make the live database in {manifest['encoding']}. Nothing was touched.",
        )


def check_extensions(connection, names: list[str]) -> None:
    """Whether our role may create them is found out by trying: what does not need them is restored without them."""
    version = connection.pg_version // 10000
    for (name,) in fetch(connection, ABSENT, [names]):
        hint = f"Install its package, often postgresql-{version}-{name}: apt-cache search {name}."
        raise Refused(f"It needs the extension {name}, which is not installed on this server.", hint)


def check_rights(connection, manifest: dict) -> None:
    """With the exact statements. Whose objects we may not give back is found out by trying: they are ours then."""
    live = live_name(connection)
    user, creates, owner = fetch(connection, RIGHTS)[0]
    standing = fetch(connection, STANDING, [sorted({owner, *manifest.get("owners", []), *manifest.get("roles", [])})])
    missing = [name for name, there, _, _ in standing if not there]
    if missing:
        hint = "As postgres: " + " ".join(f"CREATE ROLE {name};" for name in missing)
        raise Refused(f"It names roles that this server does not have: {', '.join(missing)}.", hint)
    grants = [] if creates else [f"ALTER ROLE {quote(user)} CREATEDB;"]
    grants += [f"GRANT {name} TO {quote(user)};" for name, _, ours, great in standing
               if name == owner and not ours and not great]  # fmt: skip
    grants += [f"ALTER DATABASE {quote(live)} OWNER TO {quote(user)};" for name, _, ours, great in standing
               if name == owner and not ours and great]  # fmt: skip
    if grants:
        error = f"The role {user} may not restore {live} beside itself and rename it."
        raise Refused(error, "As postgres: " + " ".join(grants), grants=grants)


def holders(connection, live: str) -> str:
    """What keeps a database from being renamed and cannot be ended by us; "" for nothing."""
    return ", ".join(name for (name,) in fetch(connection, HOLDERS, {"live": live}))


def check_holders(connection, live: str, patience: float = 0) -> None:
    """`patience`: seconds to wait for them to go, after a restore that took hours."""
    until = time.monotonic() + patience
    while held := holders(connection, live):
        if time.monotonic() >= until:
            raise Refused(f"The database cannot be renamed because of {held}.", "End what holds it, then try again.")
        time.sleep(0.5)


# --- room ---


def check_room(connection, data: int) -> None:
    """On the database's own disk, where it can be seen from here: for the data, and for the WAL of writing it."""
    folder = data_folder(connection)
    if folder is None:
        return
    wal = int(fetch(connection, WAL, {"data": data})[0][0])
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < data + wal:
        live = live_name(connection)
        kept = [name for (name,) in fetch(connection, STANDS_BESIDE) if belongs(name, live, *KEPT, "scratch")]
        drop = f"Drop what earlier restores kept, when nobody needs it: {', '.join(kept)}." if kept else "Make room."
        raise Refused(
            f"{folder} has {free:,} bytes free; beside the live database {data:,} are needed, and {wal:,} for its WAL.",
            f"{drop} Nothing was touched.",
        )


def data_folder(connection) -> Path | None:
    """Of a server on this host, told by the process behind our session; data_directory is not shown to everybody."""
    backend, user, place = fetch(connection, PLACE)[0]
    try:
        title = Path(f"/proc/{backend}/cmdline").read_bytes().decode(errors="replace")
        if not title.startswith("postgres: ") or f" {user} {live_name(connection)} " not in title:
            return None  # that number belongs to somebody else here: the server is on another host
        status = Path(f"/proc/{backend}/status").read_text()
        parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
        words = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")
        folder = Path(place or words[words.index("-D") + 1])
        os.statvfs(folder)
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return folder
