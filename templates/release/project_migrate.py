"""Applies the migrations of a release and takes them back, saying what was done also when it failed half-way."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Iterator

from django.apps import apps
from django.core.management import call_command
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from project_answer import RELEASE_FOLDER, Refused, first_line, say, tell
from project_blockers import await_backup, named, waiting_seen, way_out
from project_databases import of_alias, prefix, writable
from project_indexes import Indexes, drop_unfinished
from project_plan import applied, irreversible, known, label, reach
from project_sessions import only_one

LOCK_NOT_AVAILABLE = "55P03"
SHAPE = """
    SELECT table_name || '.' || column_name || CASE WHEN is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END
        || CASE WHEN column_default IS NULL AND is_identity = 'NO' THEN '' ELSE ' with a default' END
    FROM information_schema.columns WHERE table_schema = ANY(current_schemas(false))
    UNION ALL SELECT 'the index ' || indexrelid::regclass || ' on ' || indrelid::regclass
        || CASE WHEN indisvalid THEN '' ELSE ', which is not finished' END
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace::regnamespace::text !~ '^pg_'
    UNION ALL SELECT 'the constraint ' || conname || ' of ' || conrelid::regclass
        || CASE WHEN convalidated THEN '' ELSE ', which is not valid' END
    FROM pg_constraint WHERE conrelid <> 0 AND connamespace::regnamespace::text !~ '^pg_|^information_schema'"""


def migrate(arguments: dict) -> dict:
    """Apply what is unapplied in `databases` (default: all that are ours), of another alias as "alias:app.name"."""
    aliases = arguments.get("databases") or writable()
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
            await_backup(connections[alias], arguments.get("patience", 0))
            if prefix(alias) and arguments.get("restore_point") == "yes" and unapplied(connections[alias]):
                tell(f"the restore point holds the default database; {alias}, which is migrated too, has none")
            done += migrate_one(connections[alias], done, limits["lock_timeout"])
    return {"applied": done}


def limit(limits: dict, connection, **_: object) -> None:
    """Set milliseconds for the migrating session: a blocked ALTER would make every request queue behind it."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for name, milliseconds in limits.items():
                cursor.execute("SELECT set_config(%s, %s, false)", [name, str(int(milliseconds))])


def wait_for_primary(aliases: list[str]) -> dict:
    pending = [prefix(alias) + key for alias in aliases for key in unapplied(connections[alias])]
    if pending:
        raise Refused(f"{len(pending)} migrations are not applied, and this host does not migrate.",
                      "Migrate on the primary host first.", pending=pending)  # fmt: skip
    return {"applied": []}


def unapplied(connection) -> dict:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {label(migration): migration for migration, _ in plan}


def migrate_one(connection, done: list[str], lock_timeout: int) -> list[str]:
    """`lock_timeout` in milliseconds."""
    before, plan, mark = set(applied(connection)), unapplied(connection), prefix(connection.alias)
    if not all(migration.atomic for migration in plan.values()):
        drop_unfinished(connection, plan.values())
        with open(shape_before(connection), "w") as file:
            json.dump(shape(connection), file)
    indexes = Indexes(connection)
    try:
        with waiting_seen(connection, lock_timeout / 1000) as blockers, indexes.watched(connection, lock_timeout):
            call_command("migrate", database=connection.alias, interactive=False, verbosity=1)
    except Exception as error:
        connection.close()
        now = set(applied(connection))
        news = [mark + key for key in plan if key in now - before]
        failed = plan.get(next((key for key in plan if key not in now), None))
        undone, left = indexes.take_back(connection, failed)
        refused = migration_failure(error, failed, mark, blockers, undone=undone, left=left)
        refused.answer["applied"] = [*done, *news]
        raise refused from error
    after = set(applied(connection))
    return [mark + key for key in plan if key in after - before]


def migration_failure(
    error: Exception, migration, mark: str, blockers: list[tuple], *, undone: bool, left: list[str]
) -> Refused:
    """Say what stays: earlier migrations are applied, and the live release now runs on them."""
    failed = mark + label(migration) if migration else ""
    say(f"{type(error).__name__}: {error}")
    sentence = f"Migration {failed or 'signal'} failed: {type(error).__name__}: {first_line(error)}"
    if not migration:
        hint = "All migrations are applied; a handler that runs after them failed."
    elif getattr(error.__cause__, "sqlstate", getattr(error.__cause__, "pgcode", "")) == LOCK_NOT_AVAILABLE:
        sentence += f"; it waited for {named(blockers)}" if blockers else ""
        hint = way_out(blockers)
    elif migration.atomic:
        hint = "It was rolled back as a whole; correct it and deploy again."
    elif undone:
        hint = "The indexes it began are taken back; correct it and deploy again."
    else:
        hint = "It is not atomic: what it did before failing stays. Take that back by hand, or let it go on from there."
    if migration and not (migration.atomic or undone) and "not atomic" not in hint:
        hint += " It is not atomic: what it did before failing stays."
    if left:
        hint += f" An index is not finished: {' '.join(left)}"
    return Refused(sentence, hint, failed=failed, atomic=bool(migration and (migration.atomic or undone)))


def reverse(arguments: dict) -> dict:
    """Unapply, newest first, exactly what is applied and not in `to` (the `known` of the older release).

    `left_by` names a migration that failed and is not atomic: Refused says what it left, when all others are reversed.
    """
    targets = {alias: of_alias(arguments["to"], alias) for alias in reversed(writable())}
    known_there = {alias: target for alias, target in targets.items() if target is not None}
    steps = [(alias, *reverse_plan(connections[alias], target)) for alias, target in known_there.items()]
    named_plan = [(prefix(alias) + label(migration), migration) for alias, _, plan in steps for migration, _ in plan]
    names = [name for name, _ in named_plan]
    blocked = {name: found for name, migration in named_plan if (found := irreversible(migration))}
    if arguments.get("plan_only"):
        return {"plan": names, "irreversible": blocked}
    if blocked:
        raise Refused(f"These migrations cannot be reversed: {', '.join(blocked)}.",
                      "Only the restore point goes back past them.", plan=names, irreversible=blocked)  # fmt: skip
    with ExitStack() as locks:
        for alias, _, _ in steps:
            locks.enter_context(only_migration(connections[alias]))
        done: list[str] = []
        for alias, executor, plan in steps:
            done += reverse_one(connections[alias], executor, plan, done)
    if arguments.get("left_by"):
        raise Refused(f"{arguments['left_by']} is not atomic and stays half done: {left_behind(arguments['left_by'])}",
                      "Take that back by hand, or let it go on from there.", reversed=names)  # fmt: skip
    return {"reversed": names}


def reverse_one(connection, executor: MigrationExecutor, plan: list, done: list[str]) -> list[str]:
    mark = prefix(connection.alias)
    names = [mark + label(migration) for migration, _ in plan]
    try:
        run_backwards(executor, plan)
    except Exception as error:
        connection.close()
        left = {mark + name for name in applied(connection)}
        undone = [name for name in names if name not in left]
        failed = next((name for name in names if name in left), "")
        raise Refused(f"Reversing {failed} failed: {type(error).__name__}: {first_line(error)}",
                      "Those in `reversed` are undone; the rest is as it was.",
                      reversed=[*done, *undone], failed=failed) from error  # fmt: skip
    return names


def shape(connection) -> list[str]:
    """Every column, as a release that does not know it meets it; only PostgreSQL tells all in one query."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(SHAPE)
        return [column for (column,) in cursor.fetchall()]


def shape_before(connection) -> str:
    return os.path.join(RELEASE_FOLDER, f"shape-before-{connection.alias}.json")


def left_behind(failed: str) -> str:
    connection = connections[failed.rpartition(":")[0] or "default"]
    with open(shape_before(connection)) as file:
        before = set(json.load(file))
    now = set(shape(connection))
    found = [f"there is now {column}" for column in sorted(now - before)]
    found += [f"there is no longer {column}" for column in sorted(before - now)]
    return "; ".join(found) or "no column, index or constraint differs; look at its data"


def reverse_plan(connection, target: set[str]) -> tuple[MigrationExecutor, list]:
    executor = MigrationExecutor(connection)
    loader = executor.loader
    present = set(applied(connection))
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
    return executor, plan


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
