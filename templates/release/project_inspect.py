"""Says what a release is before anything is touched: settings, checks and migrations, with every refusal at once."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core import checks
from django.core.management import call_command
from django.db import DatabaseError, connections
from project_answer import ROOT, Refused, failure, first_line
from project_databases import schemas
from project_plan import reach, schema_facts

SHORTEST_KEY = 32  # characters; 128 bits written in hexadecimal


def inspect(arguments: dict) -> dict:
    """Facts of the release; raises Refused carrying them all, with `errors`, when one thing or more is wrong."""
    facts = settings_facts()
    errors = expectation_errors(facts, arguments.get("settings") or {})
    errors += loading_errors(arguments.get("wsgi") or "")
    connection = connections["default"]
    try:
        reach(connection)
        facts["database"] = "up"
        schema, schema_errors = schemas()
    except Refused as down:
        facts.update({key: down.answer[key] for key in ("database", "reason", "kind") if key in down.answer})
        errors.insert(0, down.answer)
        schema, schema_errors = schema_facts(None)
    facts.update(schema)
    errors += schema_errors
    facts["checks"], check_errors = system_checks(
        bool(arguments.get("deploy_check")), pending=bool(schema["migrations"])
    )
    errors += check_errors
    if arguments.get("static") and not errors:
        facts["static"] = collectstatic({})
    if errors:
        shown = [{"error": found["error"], "hint": found["hint"]} for found in errors]
        raise Refused(shown[0]["error"], shown[0]["hint"], **facts, errors=shown)
    return facts


def settings_facts() -> dict:
    static_root = str(settings.STATIC_ROOT or "")
    return {
        "django": django.get_version(),
        "python": platform.python_version(),
        "settings_module": os.environ["DJANGO_SETTINGS_MODULE"],
        "debug": bool(settings.DEBUG),
        "secret_key_suspicious": suspicious(settings.SECRET_KEY),
        "databases": {alias: database_facts(alias) for alias in connections},
        "static_root": static_root,
        "static_root_inside": bool(static_root) and inside_release(static_root),
        "media_root": str(settings.MEDIA_ROOT or ""),
    }


def suspicious(key: str | bytes) -> bool:
    """Whether a secret key is no secret: generated as insecure, too short, or written in the checkout's settings."""
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    if text.startswith("django-insecure-") or len(text) < SHORTEST_KEY or len(set(text)) < 5:
        return True
    source = getattr(sys.modules.get(os.environ["DJANGO_SETTINGS_MODULE"]), "__file__", None)
    return bool(source) and any(
        text in path.read_text(errors="replace") for path in Path(source).parent.glob("*.py") if path.is_file()
    )


def database_facts(alias: str) -> dict:
    connection = connections[alias]
    facts = {"vendor": connection.vendor}
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        in_memory = connection.is_in_memory_db()
        facts.update(path=name if in_memory else os.path.realpath(name), in_memory=in_memory)
        facts["inside_release"] = not in_memory and inside_release(name)
    return facts


def inside_release(path: str) -> bool:
    """Whether a path, its links followed, belongs to this release and so lives and dies with it."""
    return os.path.realpath(path).startswith(ROOT + os.sep)


def expectation_errors(facts: dict, expected: dict) -> list[dict]:
    """Settings that would hurt in production; `allow_...` keys let a sandbox through."""
    errors = []
    default = facts["databases"]["default"]
    if facts["debug"] and not expected.get("allow_debug"):
        errors.append(wrong("DEBUG is on.", "Set DEBUG off in the environment: error pages show settings to anybody."))
    if facts["secret_key_suspicious"] and not expected.get("allow_suspicious_key"):
        errors.append(
            wrong(
                "SECRET_KEY is no secret: generated as insecure, short, or written in the settings file.",
                "Put a long random SECRET_KEY into the environment file.",
            )
        )
    if expected.get("expect_engine") and default["vendor"] != expected["expect_engine"]:
        errors.append(
            wrong(
                f"The default database is {default['vendor']}, not {expected['expect_engine']}.",
                "The settings fell back silently: look at the database variables in the environment file.",
            )
        )
    for alias, database in facts["databases"].items():
        if database.get("in_memory") or (
            database.get("inside_release") and not expected.get("allow_sqlite_in_release")
        ):
            errors.append(
                wrong(
                    f"The SQLite database '{alias}' would not outlive this release: {database['path']}.",
                    "Every release would start empty: put the file into shared/ and let the settings say so.",
                )
            )
    return errors


def wrong(error: str, hint: str) -> dict:
    return {"error": error, "hint": hint}


def loading_errors(application: str) -> list[dict]:
    """Import the WSGI or ASGI application as the server will, e.g. "pos.wsgi:application"."""
    if not application:
        return []
    module, _, name = application.partition(":")
    try:
        found = importlib.import_module(module)
        for part in (name or "application").split("(")[0].split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        return [failure(error)]
    return []


def system_checks(deploy: bool, pending: bool) -> tuple[dict, list[dict]]:
    """Run the system checks. A check that needs a table which is still to be migrated is a note, not an error."""
    try:
        found = [found for found in checks.run_checks(include_deployment_checks=deploy) if not found.is_silenced()]
    except DatabaseError as error:
        note = f"A check needs tables that do not exist yet: {first_line(error)}"
        return {"warnings": 1, "note": note}, [] if pending else [failure(error)]
    serious = [message for message in found if message.level >= checks.ERROR]
    errors = [wrong(f"Check {message.id}: {message.msg}", message.hint or "") for message in serious]
    return {"warnings": sum(message.level == checks.WARNING for message in found), "errors": len(serious)}, errors


def collectstatic(_: dict) -> dict:
    """Collect static files into this release; Refused when STATIC_ROOT is elsewhere, perhaps in the live release."""
    from django.contrib.staticfiles.storage import staticfiles_storage
    from django.core.files.storage import FileSystemStorage

    static_root = str(settings.STATIC_ROOT or "")
    local = isinstance(staticfiles_storage, FileSystemStorage)
    if local and not static_root:
        raise Refused(
            "STATIC_ROOT is not set.", "Set STATIC_ROOT to a folder of the checkout, or turn static files off."
        )
    if local and not inside_release(static_root):
        raise Refused(
            f"STATIC_ROOT is outside this release: {static_root}.",
            "Collecting would write into what is live now: set STATIC_ROOT relative to the checkout (BASE_DIR).",
        )
    call_command("collectstatic", interactive=False, verbosity=0)
    count = sum(len(files) for _, _, files in os.walk(static_root)) if local else 0
    return {"static_root": static_root, "count": count}
