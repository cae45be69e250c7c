"""PostgreSQL archives every change by pgBackRest, so that it can be put back as it was at any second."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, script
from .. import files
from ..library import templates
from . import postgres
from .things import file, folder, packages, part, unit

KEY = "/etc/pgbackrest/conf.d/fab-releases-key.conf"
PLACE = "/var/lib/postgresql/fab-releases"
"""Where a moment is restored, beside the live cluster."""
COMMAND = "pgbackrest --stanza=main archive-push %p"
SETTINGS = f"""\
# Every change is archived, a minute after it at the latest. Written by fab-releases.
archive_mode = on
archive_command = '{COMMAND}'
archive_timeout = 60
"""


def program(stage: Stage) -> str:
    return f"/usr/local/lib/fab-releases/{stage.application}-archive"


def parts(stage: Stage, host: Host, facts: dict[str, str], key: Secret) -> tuple[Part, ...]:
    """`key` encrypts an archive that does not exist yet."""
    if not stage.is_archived or host != stage.database_host:
        return ()
    version = postgres.version(facts)
    name = f"/etc/systemd/system/{stage.application}"
    settings = f"{postgres.folder(version)}/conf.d/fab-releases-archive.conf"
    units = {
        f"{name}-archive.service": files.render("systemd/archive.service", stage, program=program(stage)),
        f"{name}-archive.timer": files.render("systemd/archive.timer", stage),
        f"{name}-moment@.service": files.render(
            "systemd/moment.service", stage, program=program(stage), user=host.user, place=PLACE
        ),
    }
    return (
        part(
            "archive",
            "Archive every change of the database",
            packages("pgbackrest"),
            folder(stage.backup.archive, "postgres", "postgres", "750"),
            folder(PLACE, "postgres", "postgres", "755"),
            _key(stage, key),
            file("/etc/pgbackrest/pgbackrest.conf", files.render("pgbackrest", stage, version=version)),
            _archives(stage),
            file(settings, SETTINGS, "644", "postgres", "postgres"),
            file(program(stage), (templates() / "provision" / "pgbackrest.py").read_text(), "755"),
            *(file(path, text) for path, text in units.items()),
            unit(f"{stage.application}-archive.timer"),
            check=("units_verified", *units),
            use=("use_archive", version, settings, stage.application),
        ),
    )


def _key(stage: Stage, key: Secret) -> Thing:
    return Thing(
        f"key in {KEY}",
        ("look_owner", KEY),
        "regular file, root:postgres 640",
        script(("make_archive_key", KEY, stage.backup.archive, key)),
    )


def _archives(stage: Stage) -> Thing:
    """What PostgreSQL does comes with the settings put to use: here it is only seen that nobody else archives."""
    made: Script = script(("make_archive", COMMAND))
    return Thing("archive", ("look_archive", stage.backup.archive), "archive_mode on\nstanza main", made)
