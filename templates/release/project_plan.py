"""Knows the migrations of a release: known, applied, unapplied, and what each of those would break."""

from __future__ import annotations

import re
from typing import Iterable, Iterator

from django.db import Error
from django.db.migrations import operations as ops
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import NOT_PROVIDED
from project_answer import Refused, first_line
from project_sessions import is_gone

CREATE_EXTENSION = re.compile(r"CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?([\w-]+)", re.IGNORECASE)
LIMITS = ("max_length", "max_digits", "decimal_places")
WIDENING = {
    ("CharField", "TextField"),
    ("SmallIntegerField", "IntegerField"),
    ("SmallIntegerField", "BigIntegerField"),
    ("IntegerField", "BigIntegerField"),
    ("AutoField", "BigAutoField"),
    ("SmallAutoField", "BigAutoField"),
}
POSSIBLE_EXTENSIONS = """
    SELECT name FROM pg_available_extension_versions WHERE name = ANY(%s) GROUP BY name
    HAVING bool_or(installed) OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    OR (bool_or(trusted) AND has_database_privilege(current_database(), 'CREATE'))"""


def reach(connection) -> None:
    """Connect, or say in one sentence that the database does not answer."""
    try:
        connection.ensure_connection()
    except Error as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        name = "" if connection.alias == "default" else f" {connection.alias!r}"
        hint = "Is it running, and are host, port, user and password in the environment file right?"
        if connection.vendor == "postgresql" and is_gone(connection):
            hint = "There is no such database on its server: fab restore-db --date latest makes it anew from a backup."
        raise Refused(
            f"The database{name} does not let us in. {reason}", hint,
            kind="database", database="down", reason=reason,
        ) from None  # fmt: skip


def schema_facts(connection) -> tuple[dict, list[dict]]:
    """Migrations known, applied, ahead of this code and unapplied, and what would stop them.

    Without a connection only what the code knows.
    """
    if connection is None:
        return {"known": known(MigrationLoader(None)), "applied": [], "ahead": [], "migrations": []}, []
    executor = MigrationExecutor(connection)
    loader = executor.loader
    plan = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    state = executor._create_project_state(with_applied_migrations=True) if plan else None
    existing = set(state.models) if plan else set()
    migrations = [migration_facts(migration, state, existing) for migration in plan]
    names, present = known(loader), applied(connection)
    facts = {"known": names, "applied": present, "ahead": sorted(set(present) - set(names)), "migrations": migrations}
    return facts, [*history_errors(loader, connection), *extension_errors(connection, migrations)]


def known(loader: MigrationLoader) -> list[str]:
    """Every migration this code has, with those its squashed ones stand for: the database may name either."""
    keys = set(loader.disk_migrations)
    keys.update(replaced for migration in loader.disk_migrations.values() for replaced in migration.replaces)
    return sorted(f"{app}.{name}" for app, name in keys)


def label(migration) -> str:
    return f"{migration.app_label}.{migration.name}"


def applied(connection) -> list[str]:
    return sorted(f"{app}.{name}" for app, name in MigrationRecorder(connection).applied_migrations())


def migration_facts(migration, state, existing: set) -> dict:
    """What one unapplied migration does; `state` is moved past it, `existing` are the models older code may write."""
    findings: dict = {"destructive": False, "additive_not_null": False, "renames": False, "extension": ""}
    for operation in migration.operations:
        for inner in in_database([operation]):
            look_at(inner, migration.app_label, state, existing, findings)
        operation.state_forwards(migration.app_label, state)
    return {
        "app": migration.app_label,
        "name": migration.name,
        "reversible": not irreversible(migration),
        "atomic": migration.atomic,
        "operations": [operation.describe() for operation in migration.operations],
        **findings,
    }


def in_database(operations: Iterable) -> Iterator:
    """The operations that reach the database: SeparateDatabaseAndState says reversible whatever is inside it."""
    for operation in operations:
        if isinstance(operation, ops.SeparateDatabaseAndState):
            yield from in_database(operation.database_operations)
        else:
            yield operation


def irreversible(migration) -> list[str]:
    return [operation.describe() for operation in in_database(migration.operations) if not operation.reversible]


def look_at(operation, app: str, state, existing: set, findings: dict) -> None:
    loses = isinstance(operation, (ops.RemoveField, ops.DeleteModel)) or not operation.reversible
    if isinstance(operation, ops.AlterField):
        model = state.models.get((app, operation.model_name_lower))
        loses = model is None or narrows(model.fields.get(operation.name), operation.field)
    findings["destructive"] |= loses
    findings["renames"] |= isinstance(operation, (ops.RenameField, ops.RenameModel, ops.AlterModelTable))
    findings["additive_not_null"] |= isinstance(operation, ops.AddField) and (
        (app, operation.model_name_lower) in existing and needs_value(operation.field)
    )
    findings["extension"] = findings["extension"] or extension_of(operation)


def narrows(old, new) -> bool:
    """Whether values or code that were right before may be wrong after; unknown counts as yes."""
    if old is None or (old.null and not new.null) or (new.unique and not old.unique):
        return True
    types = (old.get_internal_type(), new.get_internal_type())
    if types[0] != types[1]:
        return types not in WIDENING
    limits = [(getattr(old, name, None), getattr(new, name, None)) for name in LIMITS]
    return any(after is not None and (before is None or after < before) for before, after in limits)


def needs_value(field) -> bool:
    """Whether a new column refuses rows of code that does not know it: a Python default is not kept in the column."""
    if field.null or field.many_to_many or getattr(field, "generated", False):
        return False
    return getattr(field, "db_default", NOT_PROVIDED) is NOT_PROVIDED


def extension_of(operation) -> str:
    if any(kind.__name__ == "CreateExtension" for kind in type(operation).__mro__):
        return operation.name
    found = CREATE_EXTENSION.search(str(operation.sql)) if isinstance(operation, ops.RunSQL) else None
    return found.group(1) if found else ""


def history_errors(loader: MigrationLoader, connection) -> list[dict]:
    errors = []
    for app, names in loader.detect_conflicts().items():
        errors.append(
            {"error": f"Two last migrations in '{app}': {', '.join(names)}.", "hint": "makemigrations --merge"}
        )
    try:
        loader.check_consistent_history(connection)
    except InconsistentMigrationHistory as error:
        errors.append(
            {"error": first_line(error), "hint": "The database has migrations in another order than the code."}
        )
    return errors


def extension_errors(connection, migrations: list[dict]) -> list[dict]:
    """Extensions a migration would create and this role may not: it would stop half-way with the old release broken."""
    wanted = {migration["extension"] for migration in migrations} - {""}
    if connection.vendor != "postgresql" or not wanted:
        return []
    with connection.cursor() as cursor:
        cursor.execute(POSSIBLE_EXTENSIONS, [sorted(wanted)])
        possible = {name for (name,) in cursor.fetchall()}
    return [
        {
            "error": f"A migration creates the extension {name}, and this database role may not.",
            "hint": f'[provision] extensions = ["{name}"], then fab provision; restores then have it as well. Or once,'
            f' as postgres, in this database: CREATE EXTENSION "{name}";',
        }
        for name in sorted(wanted - possible)
    ]
