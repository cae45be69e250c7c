"""UFW: which ports are open; the way we came in is always one of them."""

from __future__ import annotations

from ...model.config import Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from .things import part


def parts(stage: Stage, facts: dict[str, str]) -> tuple[Part, ...]:
    if not stage.provision.firewall:
        return ()
    rules = [f"allow {port}/tcp" for port in ports(stage, facts)]
    thing = Thing(
        "firewall",
        ("look_firewall", *rules),
        "\n".join(["active", "deny what is not allowed", *rules]),
        script(("make_firewall", facts.get("ssh_port", ""), *rules)),
    )
    return (part("firewall", "Shut what is not allowed", thing),)


def ports(stage: Stage, facts: dict[str, str]) -> list[int]:
    """What sshd listens on as the server itself sees it: a forwarded port would mean another one here."""
    ssh = int(facts.get("ssh_port") or 22)
    return list(dict.fromkeys([ssh, 80, 443, *stage.provision.allow]))
