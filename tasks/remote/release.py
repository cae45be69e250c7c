"""Releases on disk: repaired, switched, put back, pruned."""

from __future__ import annotations

from ..model.config import Host, Stage
from ..model.shell import Script, script
from . import health, services


def repair(stage: Stage, current: str, who: str) -> Script:
    """What an interrupted run left is set right. Idempotent."""
    return script(("repair", health.front(stage, current), who))


def healthy(stage: Stage, host: Host, id: str) -> Script:
    """Asks it in private; says nothing on a host without web processes."""
    return script(("healthy", id, health.private(stage, id))) if services.names(stage, host, "web") else Script()


def activate(
    stage: Stage, host: Host, id: str, previous: str, who: str, *, leaves: str = "retired", note: str = ""
) -> Script:
    """The switch, its proof and its record; undone on the spot when the proof fails, even with nobody watching.

    A host without web processes has no door to ask at: its switch is proved by its workers.
    """
    return script(("activate", id, previous, leaves, health.in_front(stage, host, id), who, note))


def put_back(id: str, previous: str, who: str, state: str) -> Script:
    return script(("put_back", id, previous, who, state))


def prune(stage: Stage) -> Script:
    return script(("prune", stage.keep_releases))
