"""PostgreSQL archives every change by pgBackRest, so that it can be put back as it was at any second."""

from __future__ import annotations

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, script
from ...server.make import archive_folder
from ...server.make import file as files_made
from .. import files
from ..library import templates
from . import postgres
from .stores import Offsite
from .things import file, folder, known, packages, part, unit

KEY = "/etc/pgbackrest/conf.d/fab-releases-key.conf"
STORAGE = "/etc/pgbackrest/conf.d/fab-releases-storage.conf"
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
    return f"/usr/local/lib/fab-releases/{stage.known_as}-archive"


def repository(stage: Stage) -> tuple[str, ...]:
    """Lines for pgBackRest: where the archive is, without what opens it."""
    bucket = stage.backup.bucket
    if not bucket:
        return (f"repo1-path={stage.backup.archive}",)
    # A bucket before the host's name would need a certificate of its own with every storage but Amazon's.
    said = {
        "repo1-type": "s3",
        "repo1-path": bucket.path,
        "repo1-s3-endpoint": bucket.host,
        "repo1-s3-bucket": bucket.name,
        "repo1-s3-uri-style": "path",
        "repo1-storage-port": str(bucket.port),
    }
    return tuple(f"{name}={value}" for name, value in said.items())


def opener(stage: Stage, offsite: Offsite) -> Secret:
    """Lines for pgBackRest that open the storage; "" for a folder."""
    if not stage.backup.bucket:
        return Secret("")
    given = dict(line.split("=", 1) for line in offsite.variables.value.splitlines())
    said = {
        "repo1-s3-region": given.get("AWS_DEFAULT_REGION") or stage.backup.bucket.region,
        "repo1-s3-key": given["AWS_ACCESS_KEY_ID"],
        "repo1-s3-key-secret": given["AWS_SECRET_ACCESS_KEY"],
    }
    return Secret("".join(f"{name}={value}\n" for name, value in said.items()))


def parts(stage: Stage, host: Host, facts: dict[str, str], key: Secret, offsite: Offsite) -> tuple[Part, ...]:
    """`key` encrypts an archive that does not exist yet; `offsite` opens the storage it is in."""
    if not stage.is_archived or host != stage.database_host:
        return ()
    version = postgres.version(facts)
    name = f"/etc/systemd/system/{stage.known_as}"
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
            *_place(stage, offsite),
            folder(PLACE, "postgres", "postgres", "755"),
            file(
                "/etc/pgbackrest/pgbackrest.conf",
                files.render("pgbackrest", stage, version=version, repository=repository(stage)),
            ),
            _key(stage, key),
            _archives(),
            file(settings, SETTINGS, "644", "postgres", "postgres"),
            file(program(stage), (templates() / "provision" / "pgbackrest.py").read_text(), "755"),
            *(file(path, text) for path, text in units.items()),
            unit(f"{stage.known_as}-archive.timer"),
            check=("units_verified", *units),
            use=("use_archive", version, settings, stage.known_as),
        ),
    )


def _place(stage: Stage, offsite: Offsite) -> tuple[Thing, ...]:
    """The folder, or what opens the bucket, which is sent where it is known."""
    if not stage.backup.bucket:
        return (folder(stage.backup.archive, "postgres", "postgres", "750"),)
    if not offsite.key.value:
        return ()
    return (known(STORAGE, Secret(f"[global]\n{opener(stage, offsite).value}"), "postgres", "640"),)


def _key(stage: Stage, key: Secret) -> Thing:
    place = stage.backup.archive_folder
    owned = script(call(archive_folder.own, place)) if place else Script()
    return Thing(
        f"key in {KEY}",
        call(files_made.look_owner, f"key in {KEY}", KEY),
        "regular file, root:postgres 640",
        script(("make_archive_key", KEY, key)) + owned,
    )


def _archives() -> Thing:
    """What PostgreSQL does comes with the settings put to use: here it is only seen that nobody else archives."""
    made: Script = script(("make_archive", COMMAND))
    return Thing("archive", ("look_archive",), "archive_mode on\nstanza main", made)
