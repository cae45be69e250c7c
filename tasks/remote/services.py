"""Services of a release: asked to start, waited for, retired."""

from __future__ import annotations

import math

from ..model.config import Host, Service, Stage, seconds
from ..model.shell import Line, Script, script


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
    calls: list[Line] = []
    for name in names(stage, host, *kinds):
        service = stage.services[name]
        settle = 0 if service.notify else math.ceil(seconds(service.settle))
        calls.append(("await", id, name, math.ceil(seconds(stage.health.deadline)), settle))
    return Script(tuple(calls))


def start_workers(stage: Stage, host: Host, id: str) -> Script:
    """Started, answering, and taking from every queue."""
    return start(stage, host, id, "worker") + await_ready(stage, host, id, "worker") + queues_served(stage, host, id)


def queues_served(stage: Stage, host: Host, id: str) -> Script:
    """Celery workers say which queues they take from and which they could send to."""
    celery = [name for name in names(stage, host, "worker") if is_celery(stage.services[name])]
    alone = "alone" if len(stage.with_role("worker")) == 1 else ""
    return script(("queues_served", id, alone, *celery)) if celery else Script()


def is_celery(service: Service) -> bool:
    return not service.command or service.command.split()[0].endswith("celery")


def stop(stage: Stage, host: Host, id: str) -> Script:
    return script(("stop_generation", id, *names(stage, host, "web", "worker")))


def hand_over(stage: Stage, host: Host) -> Script:
    """Beat follows `current`, whichever way it just moved."""
    return script(("hand_over",)) if names(stage, host, "beat") else Script()


def await_beat(stage: Stage, host: Host) -> Script:
    wanted = names(stage, host, "beat")
    return Script(tuple(("await_beat", name) for name in wanted))


def retire(warm: str = "") -> Script:
    return script(("retire", warm))
