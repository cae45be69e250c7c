"""The timers that take and prove backups while nobody is there, what sends them away, and who hears of a failure."""

from __future__ import annotations

import json
from dataclasses import replace

from ...model.backup import Backup
from ...model.call import call
from ...model.config import Host, Stage, megabytes
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, script
from ...server.installed import place
from ...server.make import file as files_made
from .. import backup, files
from ..library import programs, templates
from .stores import Offsite
from .things import absent, file, known, packages, part, unit

DAYS = {"daily": "*-*-*", "weekly": "Sun *-*-*", "monthly": "*-*-01"}
"""How often a drill is, as systemd.time(7) says it."""
UNITS = "/etc/systemd/system"
APART = "/var/lib/fab-releases"
"""Where a host without releases keeps what it says of itself."""


def parts(stage: Stage, host: Host, offsite: Offsite, webhook: Secret | None = None) -> tuple[Part, ...]:
    """On the one host that migrates: it has the release and the way to the database. What is sent away is sent from
    where the database is, too: nobody else may ask it for roles and grants. Without a release there, `webhook` says
    whom to tell.
    """
    if not stage.backup.enabled:
        return ()
    if host != stage.primary:
        apart = (_failed_apart(stage, host, webhook), _offsite_database(stage, host, offsite))
        return apart if stage.sends_apart(host) else ()
    return (_failed(stage, host), _offsite(stage, host, offsite), _backups(stage, host), _drills(stage, host))


def _backups(stage: Stage, host: Host) -> Part:
    name = f"{stage.known_as}-backup"
    service = files.render("systemd/backup.service", stage, user=host.user, arguments=backup.arguments(stage))
    return _scheduled("backups", "Schedule backups", name, service, files.render("systemd/backup.timer", stage))


def _drills(stage: Stage, host: Host) -> Part:
    name = f"{stage.known_as}-drill"
    if stage.backup.drill == "never":
        timer = f"{UNITS}/{name}.timer"
        gone = absent(timer)
        gone = replace(gone, make=script(("stop_timer", timer)) + gone.make + script(("reload_units",)))
        return part("drills", "Schedule no drills", gone)
    service = files.render("systemd/drill.service", stage, user=host.user, arguments=backup.drill_arguments(stage))
    timer = files.render("systemd/drill.timer", stage, calendar=calendar(stage.backup))
    return _scheduled("drills", "Schedule drills", name, service, timer)


def calendar(asked: Backup) -> str:
    """Two hours after backups begin; a slower one is waited for."""
    hour, _, minute = asked.at.partition(":")
    return f"{DAYS[asked.drill]} {(int(hour) + 2) % 24:02}:{minute}:00"


def _scheduled(name: str, title: str, unit_name: str, service: str, timer: str) -> Part:
    path = f"{UNITS}/{unit_name}"
    return part(
        name,
        title,
        file(f"{path}.service", service),
        file(f"{path}.timer", timer),
        unit(f"{unit_name}.timer"),
        check=("units_verified", f"{path}.service", f"{path}.timer"),
        use=("restart", f"{unit_name}.timer"),
    )


def _failed(stage: Stage, host: Host) -> Part:
    layout = stage.layout
    at = {"current": str(layout.current), "journal": str(layout.journal), "variable": stage.notify.webhook_variable}
    return _failures(stage, at, user=host.user, writable=str(layout.private))


def _failed_apart(stage: Stage, host: Host, webhook: Secret | None) -> Part:
    """Where there is no release, and so neither its journal nor its variables."""
    name, notified = stage.notify.webhook_variable, f"/etc/fab-releases/{stage.known_as}.notify"
    unit_name = f"{stage.known_as}-offsite"
    at = {
        "current": "",
        "journal": f"{APART}/{stage.known_as}-journal.jsonl",
        "variable": name if webhook else "",
        "hint": f"on {host.name}: journalctl -u {unit_name}",
    }
    told = (known(notified, Secret(f"{name}={json.dumps(webhook.value)}\n")),) if webhook else ()
    things = (packages("python3"), *told)
    return _failures(stage, at, *things, user="root", writable=APART, variables=notified)


def _failures(stage: Stage, at: dict[str, str], *more: Thing, **where: str) -> Part:
    """What OnFailure= of the others starts; `at` and `where` are told to the program and to its unit."""
    folder = f"/usr/local/lib/fab-releases/{stage.known_as}-failed"
    service = f"{UNITS}/{stage.known_as}-failed@.service"
    told = json.dumps({"application": stage.known_as, "stage": stage.name} | at)
    words = {"variables": "", "program": f"{folder}/failed.py", "arguments": told} | where
    return part(
        "failures",
        "Tell of failures",
        *more,
        file(f"{folder}/failed.py", (templates() / "provision" / "failed.py").read_text()),
        file(f"{folder}/project_journal.py", programs()["project_journal.py"]),
        file(service, files.render("systemd/failed.service", stage, **words)),
        check=("units_verified", service),
        use=("reload_units",),
    )


def _offsite(stage: Stage, host: Host, offsite: Offsite) -> Part:
    """As root: what a new server needs is all over /etc."""
    service = f"{UNITS}/{stage.known_as}-offsite.service"
    return part(
        "offsite",
        "Send backups away" if stage.backup.repository else "Copy media and configuration",
        *_means(stage, host, offsite),
        file(service, files.render("systemd/offsite.service", stage, program=_sender(stage))),
        check=("units_verified", service),
        use=("reload_units",),
    )


def _offsite_database(stage: Stage, host: Host, offsite: Offsite) -> Part:
    name, service = f"{stage.known_as}-offsite", "systemd/offsite-database.service"
    return part(
        "offsite",
        "Send backups away",
        *_means(stage, host, offsite),
        file(f"{UNITS}/{name}.service", files.render(service, stage, program=_sender(stage))),
        file(f"{UNITS}/{name}.timer", files.render("systemd/backup.timer", stage)),
        unit(f"{name}.timer"),
        check=("units_verified", f"{UNITS}/{name}.service", f"{UNITS}/{name}.timer"),
        use=("restart", f"{name}.timer"),
    )


def _sender(stage: Stage) -> str:
    return f"/usr/local/lib/fab-releases/{stage.known_as}-offsite"


def _means(stage: Stage, host: Host, offsite: Offsite) -> tuple[Thing, ...]:
    """Of sending: the program, the key, what the repository asks for."""
    program = _sender(stage)
    away = (_key(stage, offsite.key),) if stage.backup.repository else ()
    env = (known(f"/etc/fab-releases/{stage.known_as}.env", offsite.variables),) if offsite.key.value else ()
    return (
        packages("restic"),
        *away,
        *env,
        installed(stage),
        file(f"{program}.json", settings(stage, host)),
        file(program, files.render("start", stage, start="offsite"), "755"),
        file(f"{program}-proof", files.render("start", stage, start="proof"), "755"),
    )


def installed(stage: Stage) -> Thing:
    """The programs that timers and units of this application start."""
    name = f"programs of {stage.known_as}"
    return Thing(name, call(place.look, name=name), "this version", script(call(place.make)))


def settings(stage: Stage, host: Host) -> str:
    """What the program is told; of a host without releases, that it copies roles and configuration alone."""
    layout = stage.layout
    told = {
        "application": stage.known_as,
        "repository": stage.backup.repository,
        "user": stage.primary.user,
        "shared": str(layout.shared),
        "shared_dirs": list(stage.shared_dirs),
        "current": str(layout.current) if host == stage.primary else "",
        "dumps": str(layout.dumps),
        "journal": str(layout.journal),
        "keep": stage.backup.keep,
        "reserve": megabytes(stage.minimum_free) << 20,
    }
    return json.dumps(told, indent=1) + "\n"


def no_key_yet(stage: Stage, here: str) -> Script:
    """Fails where the server has one: before another one is made at the path `here` of this machine."""
    return script(("no_key_yet", stage.known_as, here))


def _key(stage: Stage, key: Secret) -> Thing:
    path = f"/etc/fab-releases/{stage.known_as}.key"
    made = script(call(files_made.make, path, "root", "root", "600", key))
    return Thing(f"file {path}", ("look_key", path, key), "regular file, root:root 600", made)
