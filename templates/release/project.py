"""Runs one verb for what only a release's Django knows: settings, checks, migrations, restore points, static files.

`python project.py VERB [JSON-ARGUMENT]`, with the application's environment, its python, and the folder of manage.py as
working directory. The last line of stdout is one JSON object; exit 0 means done, 1 means {"error": ..., "hint": ...}.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
from contextlib import suppress
from typing import Callable

FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [FOLDER, *(entry for entry in sys.path if entry != FOLDER)]

from project_answer import Refused, failure, give, take_stdout  # noqa: E402

VERBS = {
    "inspect": ("project_inspect", "inspect"),
    "collectstatic": ("project_inspect", "collectstatic"),
    "migrate": ("project_migrate", "migrate"),
    "reverse": ("project_migrate", "reverse"),
    "restore-point": ("project_backup", "restore_point"),
    "restore": ("project_backup", "restore"),
    "backup": ("project_backup", "backup"),
    "moment": ("project_moment", "moment"),
    "drill": ("project_drill", "drill"),
    "undo-restore": ("project_backup", "undo_restore"),
    "kept": ("project_kept", "kept"),
    "drop-kept": ("project_kept", "drop_kept"),
}
SETTINGS_IN_MANAGE = re.compile(r"""setdefault\(\s*["']DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""")


def main() -> None:
    descriptor = take_stdout()
    signal.signal(signal.SIGTERM, stop)
    try:
        answer = run(sys.argv[1:])
    except BaseException as error:  # an application may call sys.exit() while it is imported
        answer = failure(error)
    give(descriptor, answer)
    sys.stderr.flush()
    os._exit(1 if "error" in answer else 0)  # threads an application left running would keep us here for ever


def stop(*_: object) -> None:
    """Turn SIGTERM into an exception, so that half-made dumps and databases are removed."""
    raise Refused("Stopped by a signal.", "What was half-made is removed; look at what is live, then run it again.")


def run(words: list[str]) -> dict:
    if not words or words[0] not in VERBS:
        raise Refused("No such verb.", "One of: " + ", ".join(VERBS))
    arguments = json.loads(words[1]) if len(words) > 1 else {}
    module, function = VERBS[words[0]]
    action = getattr(importlib.import_module(module), function)
    load_project()
    return action(arguments)


def load_project() -> None:
    """Set Django up as manage.py would: the working directory first on the path, our own folder not on it."""
    from project_folder import check_database, check_opened

    sys.path[0] = os.getcwd()
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")  # seconds; a silent database server must not hang a deploy
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        os.environ["DJANGO_SETTINGS_MODULE"] = settings_module_of_manage()
    import django

    django.setup()
    past_the_pool()
    past_no_link(check_database, check_opened)


def past_the_pool() -> None:
    """To PostgreSQL itself, not to a pgBouncer before it: locks, limits and dumps need a session that stays theirs."""
    port = os.environ.get("DATABASE_DIRECT_PORT")
    if port:
        from django.db import connections

        pooled = place_of(connections["default"])
        for alias in connections:  # another database may be reached through the same one
            if connections[alias].vendor == "postgresql" and place_of(connections[alias]) == pooled:
                connections[alias].settings_dict["PORT"] = port


def place_of(connection) -> tuple[str, str]:
    return str(connection.settings_dict["HOST"]), str(connection.settings_dict["PORT"])


def past_no_link(check_name: Callable, check_opened: Callable) -> None:
    """The file of an SQLite database lies where the application may write, and put a link to anything of ours."""
    from django.db import connections
    from django.db.backends.signals import connection_created

    def file_of(connection) -> str:
        name = str(connection.settings_dict["NAME"] or "")
        is_file = connection.vendor == "sqlite" and name and not name.startswith("file:")
        return name if is_file and not connection.is_in_memory_db() else ""

    def when_opened(connection, **_: object) -> None:
        if name := file_of(connection):
            check_opened(connection.connection, name)

    for alias, settings in connections.databases.items():
        if settings["ENGINE"].endswith(("sqlite3", "spatialite")) and (name := file_of(connections[alias])):
            with suppress(FileNotFoundError):  # no folder: SQLite says so
                check_name(name)
    connection_created.connect(when_opened, weak=False)


def settings_module_of_manage() -> str:
    """Some applications say their settings module only in manage.py."""
    try:
        with open("manage.py", encoding="utf-8") as manage:
            found = SETTINGS_IN_MANAGE.search(manage.read())
    except OSError:
        found = None
    if not found:
        raise Refused(
            "No settings module: DJANGO_SETTINGS_MODULE is not set and manage.py does not say one.",
            "Set DJANGO_SETTINGS_MODULE in the environment of this application.",
        )
    return found.group(1)


if __name__ == "__main__":
    main()
