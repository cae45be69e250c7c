"""`fab deploy`, `fab plan`, `fab rollback`, `fab repair`: everything that changes what is live."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable

import invoke

from ._operator import confirm, load_stage, now, who
from ._scene import Scene, must, scene, show_plan, talk
from ._task import task
from .engine.execute import ask
from .model.config import Stage
from .model.errors import PreflightError, UsageError
from .model.event import Note, PlanFinished
from .model.facts import HostFacts
from .model.plan import Phase, Plan, Step
from .model.release import Release, Revision, new_id, valid_id, valid_ref
from .model.shell import Script
from .plans import deploy as deploying
from .plans import restore as restoring
from .plans import rollback as rolling_back
from .plans import rolling
from .remote import django, operate, sandbox, source
from .remote import release as releases
from .report.safe import clean


@task(help={"ref": "branch, tag or commit (default: the stage's branch)"})
def deploy(
    context: invoke.Context,
    stage: str = "",
    ref: str = "",
    force: bool = False,
    batch: int = 0,
    wait: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Put a commit live on every host, or change nothing and say why."""
    here = load_stage(stage)
    wanted = valid_ref(ref or here.branch)
    balancers = rolling.balancers(here, batch)
    with talk(json=json) as tell, scene(context, here, tell, also=balancers) as at:
        if not dry_run:
            at.lock(f"deploy {wanted}", wait)
        if here.manager == "supervisor" and not dry_run:
            at.say(sandbox.seed(here))
        found = at.survey(source.resolve(here, wanted))
        revision = Revision(wanted, next(one["revision"] for one in found.values() if "revision" in one))
        at.fit()
        if not dry_run:
            at.settle(_repair(here))
        if any(one.get("uncommitted", "0") != "0" for one in found.values()):
            at.tell(Note("changes that are not committed are not part of it", warning=True))
        if not force and _already_live(here, at, revision):
            return _nothing_to_do(at, revision, dry_run=dry_run)
        release = _new_release(here, at, revision)
        plan = deploying.plan(here, at.facts, release, who(), batch, balancers, fresh=force)
        if dry_run:
            return show_plan(plan, json=json)
        return at.perform(plan, f"{release.id} is live{_address(here)}", release.sha)


@task(help={"ref": "branch, tag or commit (default: the stage's branch)"})
def plan(context: invoke.Context, stage: str = "", ref: str = "", json: bool = False) -> None:
    """Show exactly what `fab deploy` would do now, after real reads; change nothing."""
    deploy.body(context, stage=stage, ref=ref, dry_run=True, json=json)


@task(
    help={
        "to": "a release from `fab releases` (default: the last good one before the live one)",
        "steps": "how many good releases to go back",
        "code_only": "leave the database as it is, even if it is ahead of the code",
        "with_db": "restore the database from before the live release migrated it; what was written since is lost",
    }
)
def rollback(
    context: invoke.Context,
    stage: str = "",
    to: str = "",
    steps: int = 1,
    code_only: bool = False,
    with_db: bool = False,
    batch: int = 0,
    wait: str = "",
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Put the last good release back, with the database question answered, not ignored."""
    if code_only and with_db:
        raise UsageError("--code-only and --with-db exclude each other", "choose what happens to the database")
    here = load_stage(stage)
    if to:
        valid_id(to)
    balancers = rolling.balancers(here, batch)
    with talk(json=json) as tell, scene(context, here, tell, also=balancers) as at:
        if not dry_run:
            at.lock(f"rollback to {to or 'the release before'}", wait)
        at.survey()
        at.fit()
        if not dry_run:
            at.settle(_repair(here))
        id = rolling_back.target(at.facts, to, steps)
        database = _database_question(here, at, id, code_only=code_only, with_db=with_db, yes=yes or dry_run)
        plan = rolling_back.plan(here, at.facts, id, who(), database, batch, balancers)
        if dry_run:
            return show_plan(plan, json=json)
        return at.perform(plan, f"{id} is live again{_address(here)}")


@task()
def repair(context: invoke.Context, stage: str = "", wait: str = "", json: bool = False) -> int:
    """Set right what an interrupted run left; every deploy and rollback begins with it."""
    here = load_stage(stage)
    with talk(json=json) as tell, scene(context, here, tell) as at:
        at.lock("repair", wait)
        at.survey()
        return at.perform(_repair_plan(here, at), "every host is whole")


def again(stage: Stage, at: Scene) -> tuple[Plan, str]:
    """What is live, as a new release, and its commit. PreflightError where hosts serve different ones, or none."""
    at.fit()
    at.settle(_repair(stage))
    live = {host: facts.live for host, facts in at.facts.items()}
    one = next(iter(live.values()))
    if one is None or {release.sha if release else "" for release in live.values()} != {one.sha}:
        told = ", ".join(f"{host}: {release.id if release else 'nothing'}" for host, release in live.items())
        raise PreflightError(f"there is no one commit live to build again ({told})", "fab deploy; then run this again")
    release = _new_release(stage, at, Revision(one.ref, one.sha))
    return deploying.plan(stage, at.facts, release, who()), one.sha


def _repair(stage: Stage) -> Callable[[HostFacts], Script]:
    return lambda facts: releases.repair(stage, facts.current, who())


def _repair_plan(stage: Stage, at: Scene, *more: Step) -> Plan:
    steps = {
        host: (Step("repair", "Tidy up after earlier runs", _repair(stage)(facts)), *more)
        for host, facts in at.facts.items()
    }
    return Plan("repair", stage.name, tuple(at.facts), (Phase("repair", "Repair", steps),))


def _already_live(stage: Stage, at: Scene, revision: Revision) -> bool:
    live = [facts.live for facts in at.facts.values()]
    return (
        len({one.id for one in live if one}) == 1
        and all(
            one is not None and one.sha == revision.sha and one.state == "live" and one.config == stage.fingerprint
            for one in live
        )
        and not any("moved" in facts.more for facts in at.facts.values())
    )


def _nothing_to_do(at: Scene, revision: Revision, *, dry_run: bool) -> int:
    """What is live may still be half dead: then its services are brought back."""
    told = f"{revision.ref} ({revision.short}) is live already{_address(at.stage)}; --force builds it again"
    well = all(_settled(facts) for facts in at.facts.values())
    if not well and not dry_run:
        return at.perform(_repair_plan(at.stage, at, Step("start", "Start what does not run", operate.start())), told)
    serves = {host: facts.current for host, facts in at.facts.items()}
    current = next(iter(serves.values()))
    at.tell(
        PlanFinished(Plan("deploy", at.stage.name, tuple(serves), (), release=current), 0, told, 0.0, serves=serves)
    )
    return 0


def _settled(facts: HostFacts) -> bool:
    """All of the live release runs, of others only what is kept warm, and what was to be removed is gone.

    A run that was cut off at its end has seen to none of it.
    """

    def right(unit: str, state: str) -> bool:
        runs, (_, pinned, id) = state in ("active", "starting"), unit.rpartition("@")
        return runs if not pinned or id == facts.current else not runs or id in facts.warm

    return (
        not facts.leftovers
        and "rubbish" not in facts.more
        and all(right(unit, state) for unit, state in facts.units.items())
    )


def _new_release(stage: Stage, at: Scene, revision: Revision) -> Release:
    taken = [one.id for facts in at.facts.values() for one in facts.releases]
    moment = now()
    id = new_id(revision.sha, moment, taken)
    return Release(
        id, revision.sha, revision.ref, by=who(), at=moment.isoformat(timespec="seconds"), config=stage.fingerprint
    )


def _database_question(
    stage: Stage, at: Scene, id: str, *, code_only: bool, with_db: bool, yes: bool
) -> rolling_back.Database:
    """Which of the three it is. PreflightError when only a person can say."""
    primary = stage.primary.name if stage.primary.name in at.facts else next(iter(at.facts))
    facts = at.facts[primary]
    current, target = facts.live, facts.release(id)
    if with_db:
        if cut := restoring.cut(stage):
            at.tell(Note(cut, warning=True))
        confirm(
            f"Restore the database from before {facts.current} went live; everything written since is lost.", yes=yes
        )
        return "restore"
    if current and target and (current.migrations, current.lock) == (target.migrations, target.lock):
        return "code-only"
    asked = ask(at.sessions[primary], django.reverse_plan(facts.current, id))
    found = json_module.loads(asked.facts().get("reverse", "{}"))
    ahead, stuck = found.get("plan", []), list(found.get("irreversible", {}))
    if code_only:
        if ahead or not asked.ok:
            what = ", ".join(ahead) or "migrations that cannot be asked for now"
            at.tell(Note(f"the database stays ahead of {id} by {what}: it may be unable to write", warning=True))
        return "code-only"
    must(asked, primary)
    if stuck:
        raise PreflightError(
            f"{id} does not know {', '.join(stuck)}, and {'it' if len(stuck) == 1 else 'they'} cannot be reversed",
            "`fab rollback --with-db` restores the database from before, `--code-only` leaves it ahead of the code",
        )
    if not ahead:
        return "code-only"
    confirm(
        f"Reverse {len(ahead)} migration(s) first: {clean(', '.join(ahead))}. Columns and tables they added go.",
        yes=yes,
    )
    return "reverse"


def _address(stage: Stage) -> str:
    if stage.manager == "supervisor":
        return f" at http://127.0.0.1:{stage.port}/"
    return f" at https://{stage.domain}/" if stage.domain else ""


TASKS = ("deploy", "plan", "rollback", "repair")
