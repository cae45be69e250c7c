"""What is asked of a release before and after users see it."""

from __future__ import annotations

import json

from ..model.config import Host, Stage, seconds
from ..model.shell import Secret, Word
from . import services


def private(stage: Stage, id: str) -> Word:
    """On the release's own socket; users are still elsewhere."""
    return _request(stage, id, {"socket": str(stage.layout.socket(id))}, seconds(stage.health.deadline))


def front(stage: Stage, id: str) -> Word:
    """Through the door users come in by. Short: whoever is there now waits for the verdict."""
    door = stage.health.front or f"http://127.0.0.1:{stage.port if stage.manager == 'supervisor' else 80}"
    return _request(stage, id, {"door": door}, min(15.0, seconds(stage.health.deadline)))


def in_front(stage: Stage, host: Host, id: str) -> Word:
    """As `front`; "" on a host without web processes, which has no door to ask at."""
    return front(stage, id) if services.names(stage, host, "web") else ""


def _request(stage: Stage, id: str, where: dict[str, str], deadline: float) -> Word:
    """As JSON; a secret where headers are sent: one of them may be what lets it in."""
    health = stage.health
    host = health.host or stage.domain or "localhost"
    door = where.pop("door", "http://" + host)
    scheme, _, address = door.partition("://")
    named = host if address.startswith(("127.0.0.1", "localhost")) else address
    asked = {
        **where,
        "url": f"{scheme}://{named}{health.path}",
        "host": host,
        "headers": dict(health.headers),
        "expect": list(health.expect),
        "contains": health.contains,
        "release": id if health.release == "proof" else "",
        "successes": health.successes,
        "deadline": deadline,
        "timeout": seconds(health.timeout),
        "interval": 0.05,
    }
    if named != address and "socket" not in where:
        asked["connect"] = address if ":" in address else f"{address}:{443 if scheme == 'https' else 80}"
        asked["insecure"] = scheme == "https"
    said = json.dumps(asked)
    return Secret(said) if health.headers else said
