"""pgBouncer beside PostgreSQL: many connections of the application share few, for a transaction each."""

from __future__ import annotations

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from ...server.make import bouncer_users
from .. import files
from . import firewall
from .seeds import Seeds
from .things import file, part, unit

PORT = 6432
USERS = "/etc/pgbouncer/userlist.txt"
CONSOLE = f"/usr/bin/psql -XqAt -h /var/run/postgresql -p {PORT} -U pgbouncer -d pgbouncer -c"
"""Who runs pgBouncer may say anything there without a password (pgbouncer(5), unix_socket_dir)."""
PATIENCE, HELD = 5, 15
"""Seconds that transactions under way have to end, and after which requests go on whatever happened."""


def parts(stage: Stage, host: Host, seeds: Seeds) -> tuple[Part, ...]:
    """It knows what the database knows of the password, and not the password. A new one is
    new to it as well.
    """
    if not stage.has_bouncer or host != stage.database_host:
        return ()
    strangers = stage.strangers_to(host)
    settings = files.render("pgbouncer", stage, listen="*" if strangers else "127.0.0.1", port=PORT, users=USERS)
    users = Thing(
        "users of pgBouncer",
        seeds.look_by(call(bouncer_users.look, "users of pgBouncer", USERS, stage.known_as)),
        "postgres:postgres 640, as the database has it",
        script(call(bouncer_users.make, USERS, stage.known_as)),
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
    return {f"/etc/systemd/system/{stage.known_as}-hold.service": text}
