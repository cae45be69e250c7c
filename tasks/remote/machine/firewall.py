"""UFW: which ports are open and to whom; the way we came in is always one of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ...model.call import Call
from ...model.config import Host, Stage
from ...model.errors import UsageError
from ...model.machine import Part, Thing
from ...model.shell import script
from .things import part

LETS_IN = "look_rules"


def parts(stage: Stage, host: Host, facts: dict[str, str], others: Iterable[Part]) -> tuple[Part, ...]:
    """`others` are all other parts of the host: what they let in stays, and what other stages of the server do."""
    if not stage.provision.firewall:
        return ()
    rules = [f"allow {port}/tcp" for port in ports(stage, host, facts)]
    thing = Thing(
        "firewall",
        ("look_firewall", *rules),
        "\n".join(["active", "deny what is not allowed", *rules]),
        script(("make_firewall", facts.get("ssh_port", ""), *rules)),
    )
    wanted = [*allowed(stage, host, facts, others), *facts.get("rules_of_others", "").splitlines()]
    return (part("firewall", "Shut what is not allowed", thing, _nothing_old(stage, wanted)),)


def allowed(stage: Stage, host: Host, facts: dict[str, str], others: Iterable[Part]) -> list[str]:
    """Every rule that lets somebody in, for this stage."""
    if not stage.provision.firewall:
        return []
    named = (rule for one in others for thing in one.things for rule in _named(thing))
    return [*(f"allow {port}/tcp" for port in ports(stage, host, facts)), *named]


def _nothing_old(stage: Stage, wanted: list[str]) -> Thing:
    """Whom we let in for a host or a port that is no longer in releases.toml. Of what is switched off nothing is
    removed, and never a rule that is not ours.
    """
    asked = stage.provision
    on = {5432: stage.has_postgresql, 6432: stage.has_bouncer, 6379: asked.redis, 80: asked.nginx}
    left = "|".join(str(port) for port, here in on.items() if not here) or "none"
    look = ("look_old_rules", left, *wanted)
    return Thing("old rules of the firewall", look, "", script(("drop_old_rules", left, *wanted)))


def _named(thing: Thing) -> tuple[str, ...]:
    if isinstance(thing.look, Call) or thing.look[0] != LETS_IN:
        return ()
    return tuple(str(word) for word in thing.look[1:])


def ports(stage: Stage, host: Host, facts: dict[str, str]) -> list[int]:
    """What sshd listens on as the server itself sees it: a forwarded port would mean another one here."""
    ssh = int(facts.get("ssh_port") or 22)
    users = (80, 443) if host in stage.doors else ()
    return list(dict.fromkeys([ssh, *users, *stage.provision.allow]))


def lets_in(stage: Stage, hosts: Iterable[Host], port: int) -> tuple[Thing, ...]:
    """These hosts, and nobody else because of it. It can shut nobody out: it needs no proof as the rest does."""
    rules = [f"allow from {address(host)} to any port {port} proto tcp" for host in hosts]
    if not rules or not stage.provision.firewall:
        return ()
    made = script(("make_rules", *rules))
    return (Thing(f"way in to port {port}", (LETS_IN, *rules), "\n".join(rules), made),)


def address(host: Host) -> str:
    """UsageError for a name: what a name leads to may change behind a firewall's back."""
    try:
        return str(ipaddress.ip_address(host.inside))
    except ValueError:
        raise UsageError(
            f"{host.name} is known by a name ({host.inside}), and others let in addresses",
            f"in releases.toml, give {host.name} an internal address",
        ) from None
