"""What runs releases and brings users to them: units, sudo rules, nginx."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, script
from .. import files
from . import balancer, certificate, firewall
from .things import absent, file, link, part, unit

UNKNOWN = "/etc/nginx/conf.d/fab-releases-unknown"


def parts(stage: Stage, host: Host) -> tuple[Part, ...]:
    found = (_units(stage, host), _sudo(stage)) if host.has_releases else ()
    brings_users = "web" in host.roles or host in stage.balancers
    return (*found, *_nginx(stage, host)) if stage.provision.nginx and brings_users else found


def _units(stage: Stage, host: Host) -> Part:
    texts = files.units(stage, host)
    boot = f"{stage.known_as}.service"
    started = Thing(f"unit {boot}", ("look_enabled", boot), "enabled", script(("make_enabled", boot)))
    things = [file(path, text) for path, text in texts.items()]
    return part("units", "Install units", *things, started, check=("units_verified", *texts), use=("reload_units",))


def exposure(stage: Stage) -> Script:
    """Asks what systemd thinks of the unit of each service: marks "exposure", unit, 0 (shut) to 10 (wide open)."""
    prefix = f"{stage.known_as}-"
    units = [f"{prefix}{name}{'' if one.kind == 'beat' else '@'}.service" for name, one in stage.services.items()]
    return script(("tell_exposure", *units))


def _sudo(stage: Stage) -> Part:
    modes = {files.systemctl(stage): "755", f"/etc/sudoers.d/{stage.known_as}": "440"}
    things = [file(path, text, modes.get(path, "644")) for path, text in files.sudo(stage).items()]
    check = ("visudo", "-cqf", f"/etc/sudoers.d/{stage.known_as}")
    return part("sudo", "Allow what a deploy needs", *things, check=check)


def _nginx(stage: Stage, host: Host) -> tuple[Part, ...]:
    """http first: the authority that gives a certificate comes in there. https when there is one."""
    path = f"/etc/nginx/sites-available/{stage.known_as}"
    plain = files.site(stage, host, https=False)
    encrypts = stage.encrypts_on(host)
    before = balancer.things(stage, host) if host in stage.balancers else firewall.lets_in(stage, stage.balancers, 80)
    nginx = part(
        "nginx",
        "Set up nginx",
        file("/etc/nginx/nginx.conf", files.render("nginx/nginx.conf", stage)),
        *before,
        certificate.first_site(path, plain) if encrypts else file(path, plain),
        _unknown(stage),
        link(f"/etc/nginx/sites-enabled/{stage.known_as}", path),
        absent("/etc/nginx/sites-enabled/default"),
        unit("nginx.service"),
        check=("nginx", "-q", "-t"),
        use=("reload", "nginx.service"),
    )
    return (nginx, *certificate.parts(stage), _https(stage, host, path)) if encrypts else (nginx,)


def _unknown(stage: Stage) -> Thing:
    """Where the site has no name, it is the one for every name."""
    path = f"{UNKNOWN}.conf"
    return (
        file(path, files.render("nginx/unknown.conf", stage, webroot=files.WEBROOT)) if stage.domain else absent(path)
    )


def _https(stage: Stage, host: Host, path: str) -> Part:
    return part(
        "https",
        "Serve https",
        file(path, files.site(stage, host, https=True)),
        file(f"{UNKNOWN}-https.conf", files.render("nginx/unknown-https.conf", stage)),
        certificate.served(stage),
        check=("nginx", "-q", "-t"),
        use=("serve_https", stage.certificate, stage.domain),
    )
