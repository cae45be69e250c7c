"""Says what a backup does not hold, as facts and in words: other databases, and rows that lie elsewhere."""

from __future__ import annotations

import os
from contextlib import closing

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from project_answer import first_line, say
from project_sessions import fetch, separate

FOREIGN = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'f' ORDER BY 1"
IDENTITY = """
    SELECT current_database(), pg_postmaster_start_time(), pg_is_in_recovery(),
        CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
            THEN (SELECT system_identifier FROM pg_control_system()) END"""


def absent(connection) -> dict:
    """ "not_in_it": kind -> names; "remarks": the same for people."""
    found = {"databases": other_databases(connection), "foreign_tables": []}
    if connection.vendor == "postgresql":
        found["foreign_tables"] = [name for (name,) in fetch(connection, FOREIGN)]
    words = {
        "databases": "only the database 'default' is in it: {} of DATABASES must be backed up by yourself",
        "foreign_tables": "rows of foreign tables are elsewhere, and not in it: {}",
    }
    said = [words[kind].format(", ".join(names)) for kind, names in found.items() if names]
    return {"not_in_it": found, "remarks": said}


def other_databases(connection) -> list[str]:
    return [alias for alias in sorted(connections.databases) if not is_in_it(alias, connection)]


def is_in_it(alias: str, connection) -> bool:
    """Whether it is the database of `connection`, or a replica, or none at all. What follows another one than ours has
    that named by itself.
    """
    if alias == connection.alias or "dummy" in connections.databases[alias]["ENGINE"]:
        return True
    try:
        other = connections[alias]
    except ImproperlyConfigured as error:
        say(f"what the database {alias} is cannot be seen: {first_line(error)}")
        return False
    mirrors = other.settings_dict.get("TEST", {}).get("MIRROR") in {*connections.databases} - {alias}
    if other.vendor != connection.vendor or (other.vendor != "postgresql" and place(other) != place(connection)):
        return mirrors
    names = {str(one.settings_dict.get("NAME") or "") for one in (other, connection)}
    if place(other) == place(connection) or (len(names) > 1 and "" not in names and not mirrors):
        return place(other) == place(connection)
    return is_same_server(other, connection, mirrors)


def place(connection) -> tuple:
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return (os.path.realpath(settings["NAME"]),)
    return tuple(str(settings.get(key) or "") for key in ("HOST", "PORT", "NAME"))


def is_same_server(other, connection, mirrors: bool) -> bool:
    """The same database by another address, or a replica, as that says itself."""
    try:
        with closing(separate(other)) as session:
            name, started, follows, cluster = fetch(session, IDENTITY)[0]
    except Error as error:
        say(f"whether {other.alias} is another database cannot be seen: {first_line(error)}")
        return mirrors
    own, own_start, _, own_cluster = fetch(connection, IDENTITY)[0]
    return (follows and mirrors) or (name == own and (started == own_start or (follows and cluster == own_cluster)))
