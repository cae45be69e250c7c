"""The timer that takes backups while nobody is there, and what sends them away from the server."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Secret, script
from .. import backup, files
from .stores import Offsite
from .things import file, packages, part, unit


def parts(stage: Stage, host: Host, offsite: Offsite) -> tuple[Part, ...]:
    """On the one host that migrates: it has the release and the way to the database."""
    if not stage.backup.enabled or host != stage.primary:
        return ()
    name = f"{stage.application}-backup"
    path = f"/etc/systemd/system/{name}"
    service = files.render("systemd/backup.service", stage, user=host.user, arguments=backup.arguments(stage))
    timer = files.render("systemd/backup.timer", stage)
    scheduled = part(
        "backups",
        "Schedule backups",
        file(f"{path}.service", service),
        file(f"{path}.timer", timer),
        unit(f"{name}.timer"),
        check=("units_verified", f"{path}.service", f"{path}.timer"),
        use=("restart", f"{name}.timer"),
    )
    return (_offsite(stage, offsite), scheduled) if stage.backup.repository else (scheduled,)


def _offsite(stage: Stage, offsite: Offsite) -> Part:
    """As root: what a new server needs is all over /etc."""
    program = f"/usr/local/lib/fab-releases/{stage.application}-offsite"
    service = f"/etc/systemd/system/{stage.application}-offsite.service"
    return part(
        "offsite",
        "Send backups away",
        packages("restic"),
        secret(f"/etc/fab-releases/{stage.application}.key", offsite.key),
        secret(f"/etc/fab-releases/{stage.application}.env", offsite.variables),
        file(program, files.render("offsite", stage), "755"),
        file(service, files.render("systemd/offsite.service", stage, program=program)),
        check=("units_verified", service),
        use=("reload_units",),
    )


def secret(path: str, text: Secret) -> Thing:
    """A file of root's; of its content nothing is said, so that a change of it is not noticed either."""
    return Thing(
        f"file {path}",
        ("look_owner", path),
        "regular file, root:root 600",
        script(("make_file", path, "root", "root", "600", text)),
    )
