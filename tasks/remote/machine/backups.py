"""The timer that takes backups while nobody is there."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Part
from .. import backup, files
from .things import file, part, unit


def parts(stage: Stage, host: Host) -> tuple[Part, ...]:
    """On the one host that migrates: it has the release and the way to the database."""
    if not stage.backup.enabled or host != stage.primary:
        return ()
    name = f"{stage.application}-backup"
    path = f"/etc/systemd/system/{name}"
    service = files.render("systemd/backup.service", stage, user=host.user, arguments=backup.arguments(stage))
    timer = files.render("systemd/backup.timer", stage)
    return (
        part(
            "backups",
            "Schedule backups",
            file(f"{path}.service", service),
            file(f"{path}.timer", timer),
            unit(f"{name}.timer"),
            check=("units_verified", f"{path}.service", f"{path}.timer"),
            use=("restart", f"{name}.timer"),
        ),
    )
