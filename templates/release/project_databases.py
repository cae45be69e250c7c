"""Knows which databases of an application its migrations are for."""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.migrations.loader import MigrationLoader
from project_answer import tell
from project_plan import reach, schema_facts
from project_sessions import fetch

NO_EFFECT = {"destructive": False, "additive_not_null": False, "renames": False, "extension": ""}


def migrated() -> tuple[list[str], list[str]]:
    """Aliases that are migrated, "default" first, and those that are left out.

    Without a router Django would make every table in every database, one of another application too: only those that a
    router names for a model of this application are its own.
    """
    models = [model for model in apps.get_models() if model._meta.managed and not model._meta.proxy]
    loader = MigrationLoader(None)
    models = [model for model in models if model._meta.app_label in loader.migrated_apps]
    chosen, left = [DEFAULT_DB_ALIAS], []
    for alias in connections:
        if alias == DEFAULT_DB_ALIAS or is_same(alias, chosen) or connections[alias].vendor == "unknown":
            continue
        is_own = not mirrors(alias) and any(is_meant(alias, model) for model in models)
        (chosen if is_own else left).append(alias)
    return chosen, left


def is_same(alias: str, others: list[str]) -> bool:
    """Another name for a database that is migrated already."""
    return identity(alias) in [identity(other) for other in others]


def identity(alias: str) -> tuple:
    database = settings.DATABASES[alias]
    return tuple(str(database.get(key) or "") for key in ("ENGINE", "HOST", "PORT", "NAME"))


def mirrors(alias: str) -> bool:
    return bool((settings.DATABASES[alias].get("TEST") or {}).get("MIRROR"))


def is_meant(alias: str, model) -> bool:
    """As Django asks its routers, but that nobody's answer is a no."""
    for one in router.routers:
        ask = getattr(one, "allow_migrate", None)
        answer = ask and ask(alias, model._meta.app_label, model_name=model._meta.model_name, model=model)
        if answer is not None:
            return bool(answer)
    return False


def writable() -> list[str]:
    """Aliases that are migrated, each reached. Refused where one does not answer."""
    chosen, _ = migrated()
    for alias in chosen:
        reach(connections[alias])
    return [alias for alias in chosen if alias == DEFAULT_DB_ALIAS or not is_standby(connections[alias])]


def schemas() -> tuple[dict, list[dict]]:
    """As `schema_facts`, of every database that is migrated; names of another than the default are "alias:app.name"."""
    together: dict = {"known": [], "applied": [], "ahead": [], "migrations": []}
    errors = []
    for alias in writable():
        facts, wrong = schema_facts(connections[alias])
        mark = prefix(alias)
        for key in ("known", "applied", "ahead"):
            together[key] += [mark + name for name in ([""] if mark and key != "ahead" else []) + facts[key]]
        for one in facts["migrations"]:
            none = {} if router.allow_migrate(alias, one["app"]) else NO_EFFECT
            together["migrations"].append({**one, **none, "app": mark + one["app"]})
        errors += [one for one in wrong if one not in errors]
    if left := migrated()[1]:
        tell(f"not migrated, for no router names a model of this application for it: {', '.join(left)}")
    return together, errors


def is_standby(connection) -> bool:
    return connection.vendor == "postgresql" and bool(fetch(connection, "SELECT pg_is_in_recovery()")[0][0])


def prefix(alias: str) -> str:
    return "" if alias == DEFAULT_DB_ALIAS else f"{alias}:"


def of_alias(names: list[str], alias: str) -> set[str] | None:
    """What a list of "app.name" and "alias:app.name" says of one database; None where it does not know the alias.

    That it knows one is said by "alias:" itself, for there may be nothing applied.
    """
    start = prefix(alias)
    if start and start not in names:
        return None
    mine = [name[len(start) :] for name in names if name.startswith(start)]
    return {name for name in mine if name and ":" not in name}
