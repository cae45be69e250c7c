"""Releases on disk: repaired, switched, put back, pruned."""

from __future__ import annotations

from ..model.config import Stage
from ..model.shell import Script, script
from . import health


def repair(stage: Stage, current: str, who: str) -> Script:
    """What an interrupted run left is set right. Idempotent."""
    return script(("repair", health.front(stage, current), who))


def activate(stage: Stage, id: str, previous: str, who: str, *, leaves: str = "retired", note: str = "") -> Script:
    """The switch, its proof and its record; undone on the spot when the proof fails, even with nobody watching."""
    return script(("activate", id, previous, leaves, health.front(stage, id), who, note))


def activate_unasked(id: str, previous: str, who: str, *, leaves: str = "retired", note: str = "") -> Script:
    """The switch on a host that serves no web: nothing to ask there."""
    return script(("activate", id, previous, leaves, "", who, note))


def put_back(id: str, previous: str, who: str, state: str) -> Script:
    return script(("put_back", id, previous, who, state))


def prune(stage: Stage) -> Script:
    return script(("prune", stage.keep_releases))
