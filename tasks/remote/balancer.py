"""What is said to a balancer between deploys and during them: which hosts get requests."""

from __future__ import annotations

from ..model.config import Host, Stage
from ..model.shell import Script, script


def program(stage: Stage) -> str:
    """What changes it, as root, on the balancer."""
    return f"/usr/local/sbin/{stage.known_as}-balance"


def upstream(stage: Stage) -> str:
    return f"/etc/nginx/fab-releases/{stage.known_as}.upstream"


def drain(stage: Stage, host: Host) -> Script:
    """It gets no more requests, and has answered what it had. Refused where nobody else answers."""
    return script(("drain", *_changed(stage), host.name))


def undrain(stage: Stage, host: Host) -> Script:
    return script(("undrain", program(stage), host.name))


def drain_for_now(stage: Stage, hosts: tuple[Host, ...]) -> Script:
    """As `drain`, for a run; where nobody else answers they go on."""
    return script(("drain_for_now", *_changed(stage), *(host.name for host in hosts)))


def undrain_after(stage: Stage, hosts: tuple[Host, ...]) -> Script:
    """What a run drained; whom somebody drained on purpose stays so."""
    return script(("undrain_after", program(stage), *(host.name for host in hosts)))


def _changed(stage: Stage) -> tuple[str, ...]:
    return (program(stage), *looked_at(stage))


def look(stage: Stage) -> Script:
    return script(("look_balanced", *looked_at(stage)))


def looked_at(stage: Stage) -> tuple[str, str, str]:
    """The list, and host header and path of a request that tells whether a host serves."""
    return upstream(stage), stage.health.host or stage.domain or "localhost", stage.health.path
