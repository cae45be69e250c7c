"""How the hosts without releases do: the database, its copies, Redis, the balancer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ..model.config import Host, Stage
from ..model.facts import RoleState
from ..model.shell import Script, joined, script
from ..model.standing import Standing
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
    sent = script(("survey_apart",)) if stage.sends_apart(host) else Script()
    return joined(asked[role] for role in host.roles if role in asked) + more + sent


def parse(stage: Stage, host: str, marks: Iterable[tuple[str, ...]], now: datetime) -> tuple[RoleState, ...]:
    """(kind, word, ...) as a session heard them."""
    marks = tuple(marks)
    roles = tuple(RoleState(host, mark[1], mark[2], mark[3] == "well") for mark in marks if mark[0] == "role")
    standing = Standing.from_facts(stage.backup, {mark[1]: mark[2] for mark in marks if mark[0] == "fact"})
    if not standing:
        return roles
    sent = standing.apart(now, f"{stage.known_as}-offsite")
    return (*roles, RoleState(host, sent.what, sent.said, sent.is_well or standing.is_new))
