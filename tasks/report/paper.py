"""A plan on paper: what would be said to which host, in which order, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..model.plan import Phase, Plan, Step
from ..model.shell import Script
from .merge import in_order, only
from .words import clean


def to_text(plan: Plan) -> str:
    """For `fab plan` and `--dry-run`; secrets are masked."""
    phases = [phase for phase in plan.phases if phase.hosts]
    blocks = ["\n".join(_phase(number, phase, plan)) for number, phase in enumerate(phases, start=1)]
    return "\n\n".join([headline(plan), *(blocks or ["nothing to do"])]) + "\n"


def to_json(plan: Plan) -> dict[str, Any]:
    """The same as plain values; docs/reference/json.md has every field."""
    return {
        "verb": plan.verb,
        "stage": plan.stage,
        "release": plan.release,
        "note": plan.note,
        "hosts": list(plan.hosts),
        "phases": [_phase_json(phase) for phase in plan.phases if phase.hosts],
    }


def headline(plan: Plan) -> str:
    """deploy production 20261122-101530-9f3c2ab on web1, web2"""
    words = [plan.verb, plan.stage, plan.release, f"on {', '.join(plan.hosts)}" if plan.hosts else ""]
    return clean(" ".join(word for word in words if word)) + (f"\n{clean(plan.note)}" if plan.note else "")


def _phase(number: int, phase: Phase, plan: Plan) -> Iterator[str]:
    yield f"{number}. {clean(phase.title or phase.name)}{_terms(phase, plan)}"
    for step, hosts in in_order(phase.steps):
        yield from _step(step, only(hosts, phase.hosts))


def _terms(phase: Phase, plan: Plan) -> str:
    terms = [
        f"on {names}" if (names := only(phase.hosts, plan.hosts)) else "",
        f"{phase.batch} at a time" if phase.batch and len(phase.hosts) > phase.batch else "",
        "users may notice; put back if it fails" if phase.visible else "",
        "" if phase.must else "a failure is only a warning",
    ]
    said = "; ".join(term for term in terms if term)
    return f"  ({said})" if said else ""


def _step(step: Step, hosts: str) -> Iterator[str]:
    yield f"   - {clean(step.title or step.name)}{f'  (on {hosts})' if hosts else ''}"
    yield from (f"       {line}" for line in shown(step.script))
    back = shown(step.undo)
    yield f"       back: {back[0]}" if back else "       not undoable"
    yield from (f"             {line}" for line in back[1:])


def shown(script: Script) -> list[str]:
    """The lines people may see."""
    return [clean(line, limit=2000) for line in script.shown().split("\n") if line]


def _phase_json(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "title": phase.title,
        "hosts": list(phase.hosts),
        "batch": phase.batch,
        "visible": phase.visible,
        "must": phase.must,
        "steps": [
            {
                "name": step.name,
                "title": step.title,
                "hosts": list(hosts),
                "says": shown(step.script),
                "back": shown(step.undo),
            }
            for step, hosts in in_order(phase.steps)
        ],
    }
