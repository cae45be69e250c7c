"""What runs releases and brings users to them: units, sudo rules, nginx."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from .. import files
from .things import absent, file, link, part, unit


def parts(stage: Stage, host: Host) -> tuple[Part, ...]:
    found = (_units(stage, host), _sudo(stage))
    return (*found, _nginx(stage)) if stage.provision.nginx and "web" in host.roles else found


def _units(stage: Stage, host: Host) -> Part:
    texts = files.units(stage, host)
    boot = f"{stage.application}.service"
    started = Thing(f"unit {boot}", ("look_enabled", boot), "enabled", script(("make_enabled", boot)))
    things = [file(path, text) for path, text in texts.items()]
    return part("units", "Install units", *things, started, check=("units_verified", *texts), use=("reload_units",))


def _sudo(stage: Stage) -> Part:
    path = f"/etc/sudoers.d/{stage.application}"
    text = files.render("sudoers", stage)
    return part("sudo", "Allow what a deploy needs", file(path, text, "440"), check=("visudo", "-cqf", path))


def _nginx(stage: Stage) -> Part:
    site = f"/etc/nginx/sites-available/{stage.application}"
    return part(
        "nginx",
        "Set up nginx",
        file("/etc/nginx/nginx.conf", files.render("nginx/nginx.conf", stage)),
        file(site, files.render("nginx/site.conf", stage)),
        link(f"/etc/nginx/sites-enabled/{stage.application}", site),
        absent("/etc/nginx/sites-enabled/default"),
        unit("nginx.service"),
        check=("nginx", "-q", "-t"),
        use=("reload", "nginx.service"),
    )
