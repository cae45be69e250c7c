"""Provisioning: a part of which anything differs is made whole, the same part on every host before the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..model.config import Stage
from ..model.machine import Part, drift
from ..model.plan import Phase, Plan, Step
from ..model.shell import Script, joined, script
from ..remote.machine import ORDER

LATE = ("certificate", "https")
Parts = Mapping[str, tuple[Part, ...]]
"""Host -> what it should be."""


def plan(stage: Stage, parts: Parts, found: Mapping[str, Mapping[str, str]]) -> Plan:
    """`found`: host -> name of a thing -> what is there now.

    Whole, because packages installed just before bring along what nobody could see beforehand.
    """
    differs = {host: drift(wanted, found[host]) for host, wanted in parts.items()}
    named = list(dict.fromkeys((part.name, part.title) for wanted in parts.values() for part in wanted))
    first = {name: place for place, name in enumerate(ORDER)}
    order = sorted(named, key=lambda one: first.get(one[0], len(first)))
    phases = []
    for name, title in order:
        steps = {}
        for host, wanted in parts.items():
            for part in wanted:
                if part.name == name and any(one.part == name for one in differs[host]):
                    steps[host] = (Step(name, title, made(part)),)
        phases.append(Phase(name, title, steps))
    return Plan("provision", stage.name, tuple(parts), tuple(phase for phase in phases if phase.hosts))


def halves(plan: Plan) -> tuple[Plan, ...]:
    """What an authority decides comes last, on its own: its no must not keep a server without a firewall."""
    early = tuple(phase for phase in plan.phases if phase.name not in LATE)
    late = tuple(phase for phase in plan.phases if phase.name in LATE)
    return tuple(replace(plan, phases=phases) for phases in (early, late) if phases)


def made(part: Part) -> Script:
    """All of it or nothing."""
    things = joined(thing.make for thing in part.things)
    return script(("part", part.name)) + things + part.check + part.use + script(("part_done",))
