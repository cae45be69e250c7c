"""Services of a release: asked to start, waited for, retired."""

from __future__ import annotations

import math

from ..model.config import Host, Stage, seconds
from ..model.shell import Call, Script, script


def names(stage: Stage, host: Host, *kinds: str) -> tuple[str, ...]:
    return tuple(name for name, one in stage.services_on(host).items() if one.kind in kinds)


def start(stage: Stage, host: Host, id: str, *kinds: str) -> Script:
    wanted = names(stage, host, *kinds)
    return script(("start", id, *wanted)) if wanted else Script()


def start_early(stage: Stage, host: Host, id: str) -> Script:
    """Workers beside the web processes, where the schema is the same: they may take tasks at once."""
    wanted = names(stage, host, "worker")
    return script(("start_if_schema_is_same", id, *wanted)) if wanted else Script()


def await_ready(stage: Stage, host: Host, id: str, *kinds: str) -> Script:
    calls: list[Call] = []
    for name in names(stage, host, *kinds):
        service = stage.services[name]
        settle = 0 if service.notify else math.ceil(seconds(service.settle))
        calls.append(("await", id, name, math.ceil(seconds(stage.health.deadline)), settle))
        if service.kind == "worker" and service.notify and not service.command:
            calls.append(("queues_served", name, id))
    return Script(tuple(calls))


def stop(stage: Stage, host: Host, id: str) -> Script:
    return script(("stop_generation", id, *names(stage, host, "web", "worker")))


def hand_over() -> Script:
    """Beat follows `current`, whichever way it just moved."""
    return script(("hand_over",))


def retire(warm: str = "") -> Script:
    return script(("retire", warm))
