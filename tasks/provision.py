"""`fab provision`: servers become what releases.toml says, and stay so."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import invoke

from . import _adoption
from ._found_there import complete
from ._offsite import key_file, lacks_key, made_key, opened
from ._operator import confirm, load_stage
from ._scene import Scene, must, open_host, scene, show_plan, talk
from ._task import task
from .engine.execute import ask, execute
from .engine.session import Result, Session
from .model.config import Host, Stage, seconds
from .model.errors import FailedError, PreflightError, ReleasesError, UsageError
from .model.event import Note, PlanFinished
from .model.machine import Drift, drift
from .model.plan import Plan
from .plans import provision as provisioning
from .remote import machine
from .remote.machine import backups, proof, stores, web
from .remote.machine.things import looks, parse
from .report.safe import out, out_json

Found = Mapping[str, Mapping[str, str]]


@task(
    help={
        "check": "show what differs as a diff, change nothing; exit 1 where something does",
        "adopt": "first turn the checkout that [provision] adopt names into the first release, while it serves",
    }
)
def provision(
    context: invoke.Context,
    stage: str = "",
    check: bool = False,
    adopt: bool = False,
    wait: str = "",
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Make servers ready to be deployed to; run again it changes only what differs."""
    here = load_stage(stage)
    if here.manager != "systemd":
        raise UsageError(f"stage {here.name} needs no server to be set up", "fab deploy")
    if adopt and check:
        raise UsageError("--adopt and --check exclude each other", "fab provision --adopt --dry-run")
    with talk(json=json) as tell, scene(context, here, tell, as_admin=True, among=here.hosts) as at:
        facts = identified(at)
        here = at.stage
        flat = None if check else _adoption.look(at, wanted=adopt)
        if not check and not dry_run:
            at.lock("provision", wait)
            with_python(at, facts)
        if not check and not dry_run and lacks_key(here):
            _make_key(at)
        bare = [host for host, told in facts.items() if not told.get("python")]
        seeds = replace(known_seeds(at, bare), offsite=opened(here))
        parts = _wanted(at, facts, seeds)
        found = _look(at, parts, facts, aloud=True)
        differs = {host: drift(parts[host], found[host]) for host in parts}
        if check:
            return _show(differs, json=json)
        plan = provisioning.plan(here, parts, found)
        if dry_run and not flat:
            return show_plan(plan, json=json)
        if not dry_run:
            _ask_about(differs, yes=yes)
        if flat:
            ((host, wanted),) = parts.items()
            code = _adoption.adopt(at, flat, wanted, found[host], yes=yes, dry_run=dry_run, json=json)
            if code or dry_run:
                return code
            seeds = replace(known_seeds(at), offsite=opened(here))
            parts = _wanted(at, facts, seeds)
            plan = provisioning.plan(here, parts, _look(at, parts, facts))
        return _perform(at, plan, _wanted(at, facts, seeds.in_place), facts)


def set_up(at: Scene, facts: dict[str, dict[str, str]], seeds: stores.Seeds) -> int:
    """Makes whatever differs, with these secrets; asks nothing."""
    parts = _wanted(at, facts, seeds)
    plan = provisioning.plan(at.stage, parts, _look(at, parts, facts))
    return _perform(at, plan, _wanted(at, facts, seeds.in_place), facts)


def _make_key(at: Scene) -> None:
    """FailedError where a server has one: another would open nothing, and be kept as if it did."""
    for host, result in _ask_all(at, backups.no_key_yet(at.stage, str(key_file(at.stage)))).items():
        must(result, host)
    made = made_key(at.stage)
    at.tell(Note(f"{made} is the key of what is sent away: keep a copy where no server is", warning=True))


def _wanted(at: Scene, facts: dict[str, dict[str, str]], seeds: stores.Seeds) -> provisioning.Parts:
    return {host: machine.parts(at.stage, at.stage.host(host), facts[host], seeds) for host in at.sessions}


def identified(at: Scene) -> dict[str, dict[str, str]]:
    """PreflightError for a machine this is not made for; every one is named. What else is there already: `complete`."""
    facts = {host: must(result, host).facts() for host, result in _ask_all(at, machine.identify()).items()}
    problems = []
    for host, said in facts.items():
        if said.get("os") not in machine.SUPPORTED:
            problems.append(
                f"{host} runs {said.get('os') or 'something unknown'}: this is made for {', '.join(machine.SUPPORTED)}"
            )
        if said.get("init") != "systemd":
            problems.append(f"{host} is not run by systemd, but by {said.get('init')}")
        if not said.get("as_root"):
            problems.append(f"{host}: {at.stage.provision.admin} is not root")
    if problems:
        raise PreflightError(
            "not fit for this; nothing was touched\n  " + "\n  ".join(problems),
            "see [provision] admin in releases.toml",
        )
    complete(at, facts)
    return facts


def _ask_all(at: Scene, what):  # type: ignore[no-untyped-def]
    return at.together(lambda session: ask(session, what))


def known_seeds(at: Scene, bare: Collection[str] = ()) -> stores.Seeds:
    """The secrets an existing environment file holds, or a copy of the database, wherever in the stage there is one.

    Hosts in `bare` have no Python yet, and so nothing of ours.
    """
    known: dict[str, str] = {}
    asked = [host for host in at.sessions if host not in bare]
    read = {host: stores.read(at.stage, at.stage.host(host)) for host in asked}
    for host, result in at.together(lambda session: ask(session, read[session.host]), asked).items():
        known = _told(must(result, host)) | known
    left_out = [host for host in at.stage.hosts if host.name not in at.sessions]
    file, copies = at.stage.environment.file, at.stage.replicas
    wanted = {kind for kind, there in (("environment", file), ("replication", copies)) if there}
    while left_out and not wanted <= set(known):
        known = _asked_aside(at.stage, left_out.pop(0)) | known
    return stores.seeds_of(known.get("environment"), known.get("replication", "").strip())


def _told(result: Result) -> dict[str, str]:
    environment, passfile = result.returned
    return stores.known_of(environment, passfile)


def _asked_aside(stage: Stage, host: Host) -> dict[str, str]:
    """Of a host that -H leaves out: made anew, the passwords it knows would be wrong there."""
    try:
        session = open_host(stage, host, as_admin=True, more="provision")
    except ReleasesError as error:
        raise PreflightError(
            f"{error.message}; the passwords of this stage may be there, and new ones would shut the application out",
            error.hint,
        ) from None
    try:
        is_bare = not must(ask(session, machine.identify()), host.name).facts().get("python")
        return {} if is_bare else _told(must(ask(session, stores.read(stage, host)), host.name))
    finally:
        session.close()


def with_python(at: Scene, facts: dict[str, dict[str, str]]) -> None:
    """Where there is none it is installed before anything else: a smallest Debian comes without."""
    lacking = [host for host, told in facts.items() if not told.get("python")]
    for host in lacking:
        at.tell(Note("installing Python, which everything else here is made with", host))
    for host, result in at.together(lambda session: ask(session, machine.python(), timeout=600), lacking).items():
        must(result, host)
        facts[host]["python"] = "installed"


def _look(
    at: Scene, parts: provisioning.Parts, facts: Mapping[str, Mapping[str, str]], *, aloud: bool = False
) -> Found:
    """`aloud`: what is warned of is told."""

    def look(session: Session) -> Result:
        return ask(session, looks(parts[session.host], python=bool(facts[session.host].get("python"))))

    said = at.together(look)
    for host, result in said.items() if aloud else ():
        for mark in result.marks:
            if mark.kind == "warn":
                at.tell(Note(mark.words[0], host, warning=True))
    return {host: parse((mark.kind, *mark.words) for mark in must(result, host).marks) for host, result in said.items()}


def _show(differs: Mapping[str, tuple[Drift, ...]], *, json: bool) -> int:
    from .report import drift as page

    count = sum(len(one) for one in differs.values())
    if json:
        out_json(page.to_json(differs))
    else:
        out(f"{page.to_text(differs)}\n{page.MEANING}" if count else "every host is as releases.toml says")
    return 1 if count else 0


def _ask_about(differs: Mapping[str, tuple[Drift, ...]], *, yes: bool) -> None:
    """What somebody wrote is not overwritten unseen."""
    from .report import drift as page

    written = {
        host: tuple(one for one in drifts if not one.is_new and one.thing.name.startswith("file "))
        for host, drifts in differs.items()
    }
    if any(written.values()):
        confirm(f"These files are there and differ; they will be replaced:\n{page.to_text(written)}", yes=yes)


def _perform(at: Scene, plan: Plan, parts: provisioning.Parts, facts: Mapping[str, Mapping[str, str]]) -> int:
    code, message, hint = _made(at, plan, parts, facts)
    made = sum(len(steps) for phase in plan.phases for steps in phase.steps.values())
    total = sum(len(part.things) for wanted in parts.values() for part in wanted)
    done = (
        f"{made} of {sum(map(len, parts.values()))} parts set up"
        if made
        else f"nothing to do: {total} things are as they should be"
    )
    at.tell(PlanFinished(plan, code, message or done, time.monotonic() - at.started, hint))
    return code


def _made(
    at: Scene, plan: Plan, parts: provisioning.Parts, facts: Mapping[str, Mapping[str, str]]
) -> tuple[int, str, str]:
    """Exit code, message, hint: carried out, proved, and looked at once more."""
    try:
        for half in provisioning.halves(plan):
            ending = execute(half, at.sessions, at.tell, seconds(at.stage.build_timeout))
            if ending.code:
                return ending.code, ending.message, ending.hint
            prove_the_way_in(at, half)
        _tell_exposure(at, plan)
        left = {host: drift(parts[host], found) for host, found in _look(at, parts, facts).items()}
    except ReleasesError as error:
        return error.code, error.message, error.hint
    names = [f"{host}: {one.thing.name}" for host, drifts in left.items() for one in drifts]
    if names:
        return 1, f"made, and still not as it should be: {', '.join(names)}", "fab provision --check"
    return 0, "", ""


def _tell_exposure(at: Scene, plan: Plan) -> None:
    """Of units that were just made, as `systemd-analyze security` judges them."""
    for host in (host for phase in plan.phases if phase.name == "units" for host in phase.hosts):
        for mark in must(ask(at.sessions[host], web.exposure(at.stage)), host).marks:
            if mark.kind == "exposure":
                unit, score = mark.words
                at.tell(Note(f"{unit} is exposed {score} of 10, as systemd judges", host))


def prove_the_way_in(at: Scene, plan: Plan) -> None:
    """What keeps us out undoes itself after a minute; what lets us in again stays."""
    changed: dict[str, list[str]] = {}
    for phase in plan.phases:
        for host in phase.hosts if phase.name in proof.GUARDED else ():
            changed.setdefault(host, []).append(phase.name)
    for host, names in changed.items():
        told = " and ".join(proof.GUARDED[name] for name in names)
        try:
            open_host(at.stage, at.stage.host(host), at.identity, as_admin=True).close()
        except ReleasesError as error:
            for name in names:
                ask(at.sessions[host], proof.undone(name))
            raise FailedError(
                f"{host}: with {told} set up, a second connection did not come in ({error.message})",
                f"that is undone, and {told} as before; look at [provision], and at what lies between",
            ) from None
        for name in names:
            must(ask(at.sessions[host], proof.proven(name)), host)
        at.tell(Note(f"{told} set up, and a second connection came in", host))


TASKS = ("provision",)
