"""Applies the migrations of a release and takes them back, saying what was done also when it failed half-way."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from typing import Iterator

from django.apps import apps
from django.core.management import call_command
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from project_answer import RELEASE_FOLDER, Refused, first_line, say
from project_blockers import await_backup, named, waiting_seen, way_out
from project_plan import applied, irreversible, known, label, reach
from project_sessions import only_one

LOCK_NOT_AVAILABLE = "55P03"
SHAPE_BEFORE = os.path.join(RELEASE_FOLDER, "shape-before.json")
SHAPE = """
    SELECT table_name || '.' || column_name || CASE WHEN is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END
        || CASE WHEN column_default IS NULL AND is_identity = 'NO' THEN '' ELSE ' with a default' END
    FROM information_schema.columns WHERE table_schema = ANY(current_schemas(false))"""


def migrate(arguments: dict) -> dict:
    """Apply what is unapplied in `databases` (default: ["default"]); another alias is written "alias:app.name"."""
    aliases = arguments.get("databases") or ["default"]
    limits = {
        name: arguments.get(f"{name}_ms", default)
        for name, default in (("lock_timeout", 5000), ("statement_timeout", 0))
    }
    connection_created.connect(partial(limit, limits), weak=False)
    for alias in aliases:
        connections[alias].close()  # the limits are set when it opens again
        reach(connections[alias])
    if not arguments.get("primary", True):
        return wait_for_primary(aliases)
    with only_migration(connections[aliases[0]]):
        done: list[str] = []
        for alias in aliases:
            prefix = "" if alias == "default" else f"{alias}:"
            await_backup(connections[alias], arguments.get("patience", 0))
            done += migrate_one(connections[alias], prefix, done, limits["lock_timeout"] / 1000)
    return {"applied": done}


def limit(limits: dict, connection, **_: object) -> None:
    """Set milliseconds for the migrating session: a blocked ALTER would make every request queue behind it."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for name, milliseconds in limits.items():
                cursor.execute("SELECT set_config(%s, %s, false)", [name, str(int(milliseconds))])


def wait_for_primary(aliases: list[str]) -> dict:
    pending = [key for alias in aliases for key in unapplied(connections[alias])]
    if pending:
        raise Refused(f"{len(pending)} migrations are not applied, and this host does not migrate.",
                      "Migrate on the primary host first.", pending=pending)  # fmt: skip
    return {"applied": []}


def unapplied(connection) -> dict:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {label(migration): migration for migration, _ in plan}


def migrate_one(connection, prefix: str, done: list[str], patience: float) -> list[str]:
    """`patience` in seconds: as long as it waits for a lock."""
    before, plan = set(applied(connection)), unapplied(connection)
    if not prefix and not all(migration.atomic for migration in plan.values()):
        with open(SHAPE_BEFORE, "w") as file:
            json.dump(shape(connection), file)
    try:
        with waiting_seen(connection, patience) as blockers:
            call_command("migrate", database=connection.alias, interactive=False, verbosity=1)
    except Exception as error:
        connection.close()
        now = set(applied(connection))
        news = [prefix + key for key in plan if key in now - before]
        failed = next((key for key in plan if key not in now), None)
        raise migration_failure(error, plan.get(failed), [*done, *news], prefix, blockers) from error
    after = set(applied(connection))
    return [prefix + key for key in plan if key in after - before]


def migration_failure(error: Exception, migration, done: list[str], prefix: str, blockers: list[tuple]) -> Refused:
    """Say what was applied all the same: earlier migrations stay, and the live release now runs on them."""
    failed = prefix + label(migration) if migration else ""
    say(f"{type(error).__name__}: {error}")
    sentence = f"Migration {failed or 'signal'} failed: {type(error).__name__}: {first_line(error)}"
    if not migration:
        hint = "All migrations are applied; a handler that runs after them failed."
    elif getattr(error.__cause__, "sqlstate", getattr(error.__cause__, "pgcode", "")) == LOCK_NOT_AVAILABLE:
        sentence += f"; it waited for {named(blockers)}" if blockers else ""
        hint = way_out(blockers)
    elif migration.atomic:
        hint = "It was rolled back as a whole; correct it and deploy again."
    else:
        hint = "It is not atomic: what it did before failing stays. Take that back by hand, or let it go on from there."
    if migration and not migration.atomic and "not atomic" not in hint:
        hint += " It is not atomic: what it did before failing stays."
    return Refused(sentence, hint, applied=done, failed=failed, atomic=bool(migration and migration.atomic))


def reverse(arguments: dict) -> dict:
    """Unapply, newest first, exactly what is applied and not in `to` (the `known` of the older release).

    `left_by` names a migration that failed and is not atomic: Refused says what it left, when all others are reversed.
    """
    connection = connections[arguments.get("database", "default")]
    reach(connection)
    executor = MigrationExecutor(connection)
    plan = reverse_plan(executor, set(arguments["to"]))
    names = [label(migration) for migration, _ in plan]
    blocked = {label(migration): found for migration, _ in plan if (found := irreversible(migration))}
    if arguments.get("plan_only"):
        return {"plan": names, "irreversible": blocked}
    if blocked:
        raise Refused(f"These migrations cannot be reversed: {', '.join(blocked)}.",
                      "Only the restore point goes back past them.", plan=names, irreversible=blocked)  # fmt: skip
    with only_migration(connection):
        try:
            run_backwards(executor, plan)
        except Exception as error:
            connection.close()
            left = set(applied(connection))
            undone = [name for name in names if name not in left]
            failed = next((name for name in names if name in left), "")
            raise Refused(f"Reversing {failed} failed: {type(error).__name__}: {first_line(error)}",
                          "Those in `reversed` are undone; the rest is as it was.",
                          reversed=undone, failed=failed) from error  # fmt: skip
    if arguments.get("left_by"):
        raise Refused(f"{arguments['left_by']} is not atomic and stays half done: {left_behind(connection)}",
                      "Take that back by hand, or let it go on from there.", reversed=names)  # fmt: skip
    return {"reversed": names}


def shape(connection) -> list[str]:
    """Every column, as a release that does not know it meets it; only PostgreSQL tells all in one query."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(SHAPE)
        return [column for (column,) in cursor.fetchall()]


def left_behind(connection) -> str:
    with open(SHAPE_BEFORE) as file:
        before = set(json.load(file))
    now = set(shape(connection))
    found = [f"there is now {column}" for column in sorted(now - before)]
    found += [f"there is no longer {column}" for column in sorted(before - now)]
    return "; ".join(found) or "no column differs; look at its data and indexes"


def reverse_plan(executor: MigrationExecutor, target: set[str]) -> list:
    loader = executor.loader
    present = set(applied(executor.connection))
    installed = {config.label for config in apps.get_app_configs()}
    strangers = sorted(key for key in present - target - set(known(loader)) if key.split(".")[0] in installed)
    if strangers:
        raise Refused(f"This code does not know migrations that are applied: {', '.join(strangers)}.",
                      "Reverse with the release that brought them.", unknown=strangers)  # fmt: skip
    doomed = present - target
    plan = []
    for migration, _ in reversed(executor.migration_plan(loader.graph.leaf_nodes(), clean_start=True)):
        names = {f"{app}.{name}" for app, name in [(migration.app_label, migration.name), *migration.replaces]}
        if names & present and names & present <= doomed:  # the target may know a squashed one by its old names
            plan.append((migration, True))
    return plan


def run_backwards(executor: MigrationExecutor, plan: list) -> None:
    """What `migrate APP NAME` does, for exactly this plan, with its signals (content types are renamed by them)."""
    if not plan:
        return
    state = executor._create_project_state(with_applied_migrations=True)
    alias = executor.connection.alias
    emit_pre_migrate_signal(0, False, alias, apps=state.apps, plan=plan)
    after = executor.migrate([], plan=plan, state=state.clone())
    after.clear_delayed_apps_cache()
    emit_post_migrate_signal(0, False, alias, apps=after.apps, plan=plan)


@contextmanager
def only_migration(connection) -> Iterator[None]:
    """Two hosts never change one schema at once; SQLite is of one host, and its lock is the deploy's."""
    if connection.vendor != "postgresql":
        yield
        return
    with only_one(connection, "migration"):
        yield
