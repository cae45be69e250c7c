"""`fab provision --adopt`: a flat checkout that serves becomes the first release of a host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from ._operator import confirm, now, who
from ._scene import Scene, must, show_plan
from .engine.execute import Ending, ask, execute
from .model.config import Stage, seconds
from .model.errors import PreflightError, UsageError
from .model.event import Note, PlanFinished
from .model.machine import Part
from .model.plan import Plan
from .model.release import Release, new_id
from .plans import adopt as adopting
from .plans import provision as provisioning
from .remote import adopt as flats
from .remote.adopt import Flat


def look(at: Scene, *, wanted: bool) -> Flat | None:
    """The checkout that is to be adopted now; None when there is none, or none any more.

    PreflightError where it cannot be, and where it is there and nobody asked: the ordinary parts would take its
    users away from it.
    """
    stage = at.stage
    if not stage.provision.adopt:
        if wanted:
            raise UsageError("releases.toml names nothing to adopt", "see [provision] adopt")
        return None
    said = at.together(lambda session: ask(session, flats.look(stage, stage.host(session.host))))
    found = {
        host: flats.parse((mark.kind, *mark.words) for mark in must(result, host).marks)
        for host, result in said.items()
    }
    left = {host: flat for host, flat in found.items() if not flat.adopted and (wanted or "sha" in flat.facts)}
    if not left:
        return None
    if len(at.sessions) > 1:
        raise PreflightError(f"{', '.join(left)}: a checkout is adopted on one host at a time", "fab -H NAME provision")
    host, flat = next(iter(left.items()))
    if not wanted:
        raise PreflightError(f"{host}: {stage.provision.adopt} serves and is not adopted yet", "fab provision --adopt")
    if flat.problems:
        told = "\n".join(f"  {what}\n    -> {hint}" for what, hint in flat.problems)
        raise PreflightError(f"{host}: {stage.provision.adopt} cannot be adopted; nothing was touched\n{told}")
    return flat


def adopt(
    at: Scene, flat: Flat, parts: Sequence[Part], found: Mapping[str, str], *, yes: bool, dry_run: bool, json: bool
) -> int:
    """`parts` and `found` as for an ordinary provisioning of the one host."""
    stage, host = at.stage, at.stage.host(next(iter(at.sessions)))
    begin = provisioning.plan(stage, {host.name: adopting.early(stage, host, parts)}, {host.name: found}).phases
    release = _release(flat)
    plan = adopting.plan(stage, host, flat, parts, begin, release, who())
    after = adopting.retire(stage, host, flat, parts, plan.release)
    if dry_run:
        return _show(plan, after, json=json)
    confirm("\n".join(_question(stage, flat, plan.release)), yes=yes)
    for one in (plan, after):
        ending = execute(one, at.sessions, at.tell, seconds(stage.build_timeout))
        if ending.code:
            return _failed(at, one, ending, live=one is after)
    at.tell(Note(f"{stage.provision.adopt} is release {plan.release} now", host.name))
    return 0


def _release(flat: Flat) -> Release:
    moment = now()
    id = new_id(flat.facts["sha"], moment, [flat.facts["newest"]] if flat.facts.get("newest") else [])
    stamp = moment.isoformat(timespec="seconds")
    return Release(
        id, flat.facts["sha"], flats.REF, by=who(), at=stamp, config=flats.REF, python=flat.facts.get("python", "")
    )


def _question(stage: Stage, flat: Flat, id: str) -> Iterator[str]:
    facts, checkout = flat.facts, stage.provision.adopt
    yield f"{checkout} becomes release {id} in {stage.deploy_to}, while it serves:"
    if not flat.live:
        yield f"  copied: {_megabytes(facts['copied'])} of code and packages, with {facts['venv']}"
        if facts.get("changed", "0") != "0":
            yield f"  changed since {facts['sha'][:7]}, and part of the release: {facts['changed']} files"
        if facts.get("untracked"):
            yield f"  not in git, and part of the release unless shared: {facts['untracked']}"
        for name, size in facts.items():
            if name.startswith("folder "):
                new = stage.layout.shared / name.removeprefix("folder ")
                yield f"  moved: {new.name} ({_megabytes(size)}) to {new}, with a link in its place"
    yield f"  nginx sites that go out of use, each kept beside: {facts.get('sites') or 'none was found'}"
    yield f"  units that are stopped and disabled in the end: {', '.join(flat.units) or 'none'}"
    for name, variables in facts.items():
        if name.startswith("paths in "):
            yield f"  {variables} in {name.removeprefix('paths in ')} name {checkout}: change them before you remove it"
    if facts.get("others"):
        yield f"  these name {checkout} too, and stay as they are: {facts['others']}"


def _megabytes(kilobytes: str) -> str:
    return f"{int(kilobytes or 0) / 1024:.0f} MB"


def _show(plan: Plan, after: Plan, *, json: bool) -> int:
    both = Plan(plan.verb, plan.stage, plan.hosts, (*plan.phases, *after.phases), plan.release, plan.note)
    return show_plan(both, json=json)


def _failed(at: Scene, plan: Plan, ending: Ending, *, live: bool) -> int:
    message, hint = ending.message, ending.hint
    if live:
        message = f"{plan.release} serves, and not all of what served before is retired: {message}"
        hint = f"{hint + '; ' if hint else ''}then run this again"
    at.tell(PlanFinished(plan, ending.code, message, time.monotonic() - at.started, hint))
    return ending.code
