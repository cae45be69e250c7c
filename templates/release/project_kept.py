"""Lists the databases that restores kept, newest first, and drops one when nobody needs it any more."""

from __future__ import annotations

from datetime import datetime, timezone

from project_answer import Refused
from project_backup import opened
from project_names import KEPT, STAMP

STAMPED = "%Y%m%d%H%M%S%f"


def kept(_: dict) -> dict:
    """Of this application's `default` alone; `is_way_back`: not one that only somebody looked at."""
    connection, engine = opened({})
    found = sorted(engine.standing_beside(connection), key=lambda one: one[0][-STAMP:], reverse=True)
    return {"databases": [described(*one) for one in found]}


def drop_kept(arguments: dict) -> dict:
    connection, engine = opened({})
    name = arguments["name"]
    if name not in [one["name"] for one in kept({})["databases"]]:
        raise Refused(f"There is no database {name} that a restore kept.", "fab backups lists those there are.")
    engine.drop_beside(connection, name)
    return {"dropped": name}


def described(name: str, word: str, size: int) -> dict:
    at = datetime.strptime(name[-STAMP:], STAMPED).replace(tzinfo=timezone.utc)
    return {"name": name, "kept_at": at.isoformat(timespec="seconds"), "bytes": size, "is_way_back": word in KEPT}
