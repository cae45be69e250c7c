"""What is asked of the application itself."""

from __future__ import annotations

import json

from ..model.config import Stage, seconds
from ..model.release import Release
from ..model.shell import Script, script

FOR_A_BACKUP = 600
"""Seconds a deploy waits for a backup that runs, before it takes its restore point and migrates."""


def inspect(stage: Stage, release: Release) -> Script:
    asked = {
        "deploy_check": stage.django.check,
        "wsgi": stage.django.wsgi,
        "settings": {
            "allow_debug": not stage.django.strict,
            "allow_suspicious_key": not stage.django.strict,
            "allow_sqlite_in_release": not stage.django.strict,
            "expect_engine": "" if stage.database.engine == "any" else stage.database.engine,
        },
    }
    return script(("inspect", release.id, json.dumps(asked)))


def migrate(stage: Stage, release: Release) -> Script:
    asked = {
        "lock_timeout_ms": int(seconds(stage.database.lock_timeout) * 1000),
        "statement_timeout_ms": int(seconds(stage.database.statement_timeout) * 1000),
    }
    patience = min(FOR_A_BACKUP, int(seconds(stage.build_timeout)) // 3)
    restore_point = "yes" if stage.database.restore_point else "no"
    return script(("migrate", release.id, restore_point, json.dumps(asked), patience))


def same_migrations(stage: Stage, release: Release) -> Script:
    return script(("same_migrations", release.id, stage.primary.name))


def unmigrate(release: Release) -> Script:
    return script(("unmigrate", release.id))


def reverse(current: str, target: str) -> Script:
    return script(("reverse", current, target, ""))


def migrate_again(current: str) -> Script:
    """Undo of reverse."""
    return script(("migrate_again", current))


def reverse_plan(current: str, target: str) -> Script:
    return script(("reverse", current, target, ', "plan_only": true'))
