"""The balancer: which hosts its nginx passes users on to, and the one program that changes it."""

from __future__ import annotations

from ...model.config import Host, Stage
from ...model.machine import Thing
from ...model.shell import script
from .. import balancer, files
from . import firewall
from .things import file


def things(stage: Stage, host: Host) -> tuple[Thing, ...]:
    """The account that deploys may have it run with these words as root, and with no others."""
    names = [one.name for one in stage.with_role("web")]
    servers = [(one.name, f"{_bracketed(firewall.address(one))}:80") for one in stage.with_role("web")]
    program, upstream = balancer.program(stage), balancer.upstream(stage)
    text = files.render("balance", stage, servers=servers, upstream=upstream)
    path = f"/etc/sudoers.d/{stage.known_as}-balance"
    rules = files.render("balance-sudoers", stage, user=host.user, program=program, names=names)
    want = "\n".join(f"server {where}  # {name}" for name, where in servers)
    return (
        file(program, text, "755"),
        file(path, rules, "440"),
        Thing("balanced hosts", ("look_upstream", upstream), want, script(("make_upstream", upstream, program, path))),
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
