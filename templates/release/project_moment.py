"""Takes a backup of the database as it was at a moment, from the cluster that runs beside the live one meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import project_backup
from django.db import connections

KEPT = 7 * 86_400  # seconds; the archive has it for longer
PORT = "5432"  # of a socket in a folder of its own: it listens nowhere else


def moment(arguments: dict) -> dict:
    """Leave DIRECTORY/NAME as `backup` would have left it then. `host` is the folder of the socket, where the account
    that asks is known: the password of today may not have been that of then.
    """
    settings = connections[arguments.get("database", "default")].settings_dict
    settings.update(HOST=arguments["host"], PORT=PORT)
    settings.get("OPTIONS", {}).pop("hostaddr", None)  # which would win over it
    said = {"kind": "moment", "taken_at": arguments["taken_at"], "release": arguments["release"]}
    taken = project_backup.restore_point({**arguments, "said": said})
    drop_old(Path(arguments["directory"]))
    return taken


def drop_old(directory: Path) -> None:
    """Those that were taken for a restore of last week: the policy of the daily ones knows nothing of them."""
    for manifest in directory.glob("at-*.json"):
        if time.time() - manifest.stat().st_mtime > KEPT:
            project_backup.remove(directory, manifest.stem)
