"""Takes away the CHECKs that call somebody's own functions while rows are loaded, and puts them back afterwards.

Such a function may read a table that is loaded later, or name one without its schema, which nothing finds while an
archive is restored. PostgreSQL itself only checks rows that are written, so what is live may not even pass any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import Error
from project_answer import first_line
from project_sessions import fetch, literal, quote

FIRST_OWN = 16384  # numbers below are PostgreSQL's own
CALLING = """
    SELECT CASE WHEN conrelid <> 0 THEN format('ALTER TABLE %%s', conrelid::regclass)
                ELSE format('ALTER DOMAIN %%s', contypid::regtype) END,
        CASE WHEN conrelid <> 0 THEN format('%%s', conrelid::regclass)
             ELSE format('DOMAIN %%s', contypid::regtype) END,
        conname, pg_get_constraintdef(con.oid), obj_description(con.oid, 'pg_constraint'),
        nspname, coalesce(relname, typname)
    FROM pg_constraint con LEFT JOIN pg_class c ON c.oid = conrelid LEFT JOIN pg_type t ON t.oid = contypid
    JOIN pg_namespace n ON n.oid = connamespace
    WHERE contype = 'c' AND coninhcount = 0 AND pg_has_role(coalesce(relowner, typowner), 'USAGE')
    AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_constraint'::regclass AND d.objid = con.oid
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= %s)
    ORDER BY con.oid"""
UNCHECKED = " NOT VALID"


@dataclass(frozen=True)
class Check:
    alter: str
    """ALTER TABLE or ALTER DOMAIN, with its name."""
    on: str
    name: str
    rule: str
    comment: str | None
    namespace: str
    """Without quotes, as the name of what it is on."""
    tag: str

    @property
    def restored(self) -> str:
        added = f"{self.alter} ADD CONSTRAINT {quote(self.name)} {self.rule};"
        if self.comment is None:
            return added
        return f"{added} COMMENT ON CONSTRAINT {quote(self.name)} ON {self.on} IS {literal(self.comment)};"


def set_aside(session) -> list[Check]:
    """Those of children that have their own as well come to light when the parent's is gone."""
    found: list[Check] = []
    fetch(session, "SELECT pg_catalog.set_config('search_path', '', false)")
    while more := [Check(*row) for row in fetch(session, CALLING, [FIRST_OWN])]:
        for check in more:
            fetch(session, f"{check.alter} DROP CONSTRAINT {quote(check.name)}")
        found += more
    return found


@dataclass(frozen=True)
class Unproven:
    """A check that is not as it was."""

    check: Check
    what: str
    statement: str
    reason: str


def put_back(session, checks: list[Check], path: str) -> list[Unproven]:
    """Those that hold from now on only, because rows of the backup do not pass them."""
    return [unproven for check in checks if (unproven := added(session, check, path))]


def added(session, check: Check, path: str) -> Unproven | None:
    """As the archive means it; then with names found as the live database finds them; then without looking."""
    name = f"check {check.name} of {check.on}"
    if not (refused(session, check.restored, "") and (reason := refused(session, check.restored, path))):
        return None
    later = check.restored.replace(check.rule, check.rule + UNCHECKED, 1)
    if check.rule.endswith(UNCHECKED) or (refused(session, later, "") and refused(session, later, path)):
        return Unproven(check, name, check.restored, reason)
    validate = f"{check.alter} VALIDATE CONSTRAINT {quote(check.name)};"
    return Unproven(check, f"the validation of {name}", validate, reason)


def refused(session, statement: str, path: str) -> str:
    """Why; "" for done."""
    try:
        fetch(session, "SELECT pg_catalog.set_config('search_path', %s, false)", [path])
        fetch(session, statement)
    except Error as error:
        return first_line(error)
    return ""
