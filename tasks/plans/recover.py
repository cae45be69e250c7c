"""A lost server: what is fetched from where backups were sent, and put in its place."""

from __future__ import annotations

from ..model.config import Host, Stage
from ..model.plan import Phase, Plan, Step
from ..model.shell import Script, Secret, script
from ..remote.machine.stores import Offsite

FETCHED = "/var/lib/fab-releases/recovered"


def is_bare() -> Script:
    return script(("is_bare",))


def fetching(stage: Stage, offsite: Offsite, snapshot: str) -> Plan:
    """Answers facts: release (as release.json), snapshot (when it was taken)."""
    said: tuple[str | Secret, ...] = (stage.backup.repository, offsite.key, offsite.variables, snapshot)
    steps = (
        Step("restic", "Install what fetches", script(("make_packages", "restic", "ca-certificates"))),
        Step("fetch", f"Fetch {snapshot} from {stage.backup.repository}", script(("fetch_snapshot", *said))),
        Step("certificates", "Put certificates back", script(("recovered_certificates",))),
    )
    return _on_primary(stage, "fetch", "Fetch what was sent away", steps)


def read_environment(stage: Stage) -> Script:
    path = f"{FETCHED}{stage.layout.shared / stage.environment.file}"
    return script(("read_environment", path))


def filling(stage: Stage) -> Plan:
    """Answers facts: files (how many are in shared), database (the name of the backup)."""
    host: Host = stage.primary
    files = ("recovered_files", host.user, host.user, stage.app_user, *stage.shared_dirs)
    steps = [Step("files", "Put files back", script(files))]
    if stage.has_postgresql:
        fill = script(("recovered_database", stage.application))
        steps.append(Step("database", "Restore the database, count its rows", fill))
    return _on_primary(stage, "fill", "Put back what was lost", tuple(steps))


def _on_primary(stage: Stage, name: str, title: str, steps: tuple[Step, ...]) -> Plan:
    host = stage.primary.name
    return Plan("recover", stage.name, (host,), (Phase(name, title, {host: steps}),))
