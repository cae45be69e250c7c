"""Files that end up on servers, rendered from templates/: units, nginx, sudoers, supervisord."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.config import Host, Stage
from .library import PACKAGE, templates

if TYPE_CHECKING:
    from jinja2 import Environment

WEBROOT = "/var/lib/fab-releases/acme"
"""Where nginx finds what an authority asks for."""


def supervisor(stage: Stage, tools: Path) -> dict[str, str]:
    """Variables the library needs to keep services under supervisord."""
    return {
        "TOOLS": str(tools),
        "SUPERVISOR_CONF": render("supervisor/supervisord.conf", stage),
        "RELAY_PROGRAM": (templates() / "relay.py").read_text(),
    }


FORWARDED = (
    "Forwarded",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Protocol",
    "X-Forwarded-Ssl",
    "X-Forwarded-User",
    "X-Forwarded-By",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Script-Name",
    "X-Host",
    "X-Original-Host",
    "X-HTTP-Host-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
    "Remote-User",
    "X-Remote-User",
    "Proxy",
    "X-Client-IP",
    "Client-IP",
    "True-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
)
"""Headers by which proxies tell what came before them: from anybody else they are a claim, and cleared."""


def server_files(stage: Stage, host: Host) -> dict[str, str]:
    """Absolute path -> text of everything this host needs to run the stage's releases."""
    files = units(stage, host)
    files |= sudo(stage)
    files[f"/etc/nginx/sites-available/{stage.known_as}"] = site(stage, host, https=stage.encrypts_on(host))
    return files


def systemctl(stage: Stage) -> str:
    """The program of root's by which the account that deploys starts and stops units."""
    return f"/usr/local/lib/fab-releases/{stage.known_as}-systemctl"


def sudo(stage: Stage) -> dict[str, str]:
    """Absolute path -> text: that program, what it allows, and the rule by which sudo runs it."""
    name = stage.known_as
    units = {f"{name}.service": ["start", "stop"]}
    if stage.backup.enabled:
        units[f"{name}-offsite.service"] = ["start"]
    if stage.is_archived:
        units[f"{name}-moment@"] = ["start", "stop"]
    if stage.has_bouncer:
        units[f"{name}-hold.service"] = ["start", "stop"]
    rules = {"application": name, "services": {one: it.kind for one, it in stage.services.items()}, "units": units}
    return {
        systemctl(stage): (PACKAGE / "server" / "installed" / "systemctl.py").read_text(),
        f"{systemctl(stage)}.json": json.dumps(rules, indent=1) + "\n",
        f"/etc/sudoers.d/{name}": render("sudoers", stage, program=systemctl(stage)),
    }


def site(stage: Stage, host: Host, *, https: bool) -> str:
    """nginx's; not yet `https` as long as there is no certificate."""
    template = "nginx/balancer.conf" if "balancer" in host.roles else "nginx/site.conf"
    more = {"webroot": WEBROOT, "encrypted": stage.encrypts_on(host), "forwarded": FORWARDED}
    return render(template, stage, https=https, **more)


def units(stage: Stage, host: Host) -> dict[str, str]:
    """Absolute path -> text of the systemd units of this host.

    What starts at boot is what its roles say: a second beat would send everything twice.
    """
    at_boot = render("systemd/application.service", stage, services=stage.services_on(host))
    files = {f"/etc/systemd/system/{stage.known_as}.service": at_boot}
    for name, service in stage.services.items():
        single = service.kind == "beat"
        path = f"/etc/systemd/system/{stage.known_as}-{name}{'' if single else '@'}"
        files[f"{path}.service"] = render(f"systemd/{service.kind}.service", stage, name=name, service=service)
        if service.kind == "web":
            files[f"{path}.socket"] = render("systemd/web.socket", stage, name=name, service=service)
    return files


def render(template: str, stage: Stage, **more: Any) -> str:
    """StrictUndefined and no control characters: a newline in a value would be a line of a unit file, run as root."""
    return _environment().get_template(f"{template}.j2").render(stage=stage, layout=stage.layout, **more)


def _environment() -> Environment:
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        loader=FileSystemLoader([templates(), templates() / "provision"]),
        undefined=StrictUndefined,
        finalize=_plain,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plain(value: object) -> object:
    if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f\u2028\u2029]", value):
        raise ValueError("a value for a server's file contains a control character")
    return value
