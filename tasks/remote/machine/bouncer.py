"""pgBouncer beside PostgreSQL: many connections of the application share few, for a transaction each."""

from __future__ import annotations

from collections.abc import Callable

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Word, script
from .. import files
from . import firewall
from .things import file, part, unit

Look = Callable[..., tuple[Word, ...]]

PORT = 6432
USERS = "/etc/pgbouncer/userlist.txt"
CONSOLE = f"/usr/bin/psql -XqAt -h /var/run/postgresql -p {PORT} -U pgbouncer -d pgbouncer -c"
"""Who runs pgBouncer may say anything there without a password (pgbouncer(5), unix_socket_dir)."""
PATIENCE, HELD = 5, 15
"""Seconds that transactions under way have to end, and after which requests go on whatever happened."""


def parts(stage: Stage, host: Host, look: Look) -> tuple[Part, ...]:
    """It knows what the database knows of the password, and not the password. `look` as of Seeds: a new password is
    new to it as well.
    """
    if not stage.has_bouncer or host != stage.database_host:
        return ()
    strangers = stage.strangers_to(host)
    settings = files.render("pgbouncer", stage, listen="*" if strangers else "127.0.0.1", port=PORT, users=USERS)
    users = Thing(
        "users of pgBouncer",
        look("look_bouncer_users", USERS, stage.name_on_servers),
        "postgres:postgres 640, as the database has it",
        script(("make_bouncer_users", USERS, stage.name_on_servers)),
    )
    return (
        part(
            "pgbouncer",
            "Set up pgBouncer",
            file("/etc/pgbouncer/pgbouncer.ini", settings, "640", "postgres", "postgres"),
            users,
            *firewall.lets_in(stage, strangers, PORT),
            unit("pgbouncer.service"),
            use=("restart", "pgbouncer.service"),
        ),
        *((_hold(stage),) if host == stage.primary else ()),
    )


def _hold(stage: Stage) -> Part:
    units = hold(stage)
    return part(
        "hold",
        "Let restores hold requests",
        *(file(path, text) for path, text in units.items()),
        check=("units_verified", *units),
        use=("reload_units",),
    )


def hold(stage: Stage) -> dict[str, str]:
    """Path and text of the unit by which a restore pauses this one database: the console could do much more."""
    text = files.render("systemd/hold.service", stage, console=CONSOLE, patience=PATIENCE, seconds=HELD)
    return {f"/etc/systemd/system/{stage.name_on_servers}-hold.service": text}
