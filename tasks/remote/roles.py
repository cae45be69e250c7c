"""How the hosts without releases do: the database, its copies, Redis, the balancer."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.config import Host, Stage
from ..model.facts import RoleState
from ..model.shell import Script, joined, script
from . import balancer


def look(stage: Stage, host: Host) -> Script:
    """Of what `fab provision` set up there because of the host's roles."""
    asked = {
        "postgresql": script(("look_primary",)) if stage.has_postgresql else Script(),
        "replica": script(("look_copy",)),
        "redis": script(("look_active", "redis", "redis-server.service")) if stage.provision.redis else Script(),
        "balancer": balancer.look(stage),
    }
    bouncer = stage.has_bouncer and "postgresql" in host.roles
    more = script(("look_active", "pgbouncer", "pgbouncer.service")) if bouncer else Script()
    return joined(asked[role] for role in host.roles if role in asked) + more


def parse(host: str, marks: Iterable[tuple[str, ...]]) -> tuple[RoleState, ...]:
    """(kind, word, ...) as a session heard them."""
    return tuple(RoleState(host, mark[1], mark[2], mark[3] == "well") for mark in marks if mark[0] == "role")
