"""`fab recover`: a lost server rebuilt from what was sent away from it, by one command and one key."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import invoke

from . import deploy as deploying
from . import provision as provisioning
from ._lost_archive import LostArchive, decided, lost_of_it
from ._offsite import key_file, opened
from ._operator import chosen, confirm, load_stage
from ._scene import Scene, must, open_host, scene, talk
from ._task import task
from .engine.execute import Tell, ask, execute
from .model.config import Stage
from .model.errors import FailedError, PreflightError, UsageError
from .model.event import Note
from .model.plan import Plan
from .model.release import Release
from .model.shell import Secret
from .plans import recover as recovering
from .plans.recover import Loss
from .remote import release as releases
from .remote.machine import stores

HOURS = 6 * 3600
"""Seconds fetching and restoring may take."""
PAGE = "docs/how-to/rebuild-a-lost-server.md"


@task(
    help={
        "as_": "for a drill: on the servers of this stage, with its own domain, passwords and [recover] variables",
        "snapshot": "restic's name of an older state (default: the newest)",
        "without_archive": "take the newest dump of the database, where the archive cannot be read or is not wanted",
    }
)
def recover(
    context: invoke.Context,
    stage: str = "",
    as_: str = "",
    snapshot: str = "latest",
    without_archive: bool = False,
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Rebuild a lost server from its backups: provisioned, files, database, and the release that was live."""
    was = load_stage(stage)
    here = load_stage(as_) if as_ else was
    loss = Loss(was, here, tuple(host.name for host in chosen(here, context, here.hosts)))
    _possible(loss)
    times: dict[str, float] = {}
    with talk(json=json) as tell, scene(context, here, tell, as_admin=True, among=here.hosts) as at:
        facts = provisioning.identified(at)
        at.lock("recover", wait)
        _bare(at, loss)
        confirm(_question(loss), yes=yes)
        provisioning.with_python(at, facts)
        started = time.monotonic()
        with _timed(times, "fetch"):
            release, told = _fetched(at, loss, snapshot)
        lost = decided(told, without=without_archive, yes=yes)
        if lost:
            at.tell(Note(lost.said, warning=bool(lost.error)))
        with _timed(times, "provision"):
            if loss.application:
                _carried_out(at, recovering.preparing(loss))
            code = provisioning.set_up(at, facts, _seeds(at, loss))
        if code:
            return code
        with _timed(times, "files and database"):
            _filled(at, loss, release, lost)
        remaining = _remaining(at, loss)
    with _timed(times, "release"):
        if release:
            code = deploying.deploy.body(context, stage=here.name, ref=release.sha, json=json) or 0
    with talk(json=json) as tell:
        if not release:
            with _timed(times, "health"):
                code = _serves_again(here, tell)
        else:
            tell(Note(f"{release.sha[:7]} was live and is again" if not code else "everything but the release is back"))
        parts = ", ".join(f"{name} {_spoken(seconds)}" for name, seconds in times.items() if seconds >= 0.5)
        tell(Note(f"it took {_spoken(time.monotonic() - started)} (RTO): {parts}"))
        for line in (*remaining, *_of_a_person(loss)):
            tell(Note(f"yours to do: {line}", warning=True))
    return code


def _possible(loss: Loss) -> None:
    """UsageError where there is nothing to recover from, or it would not be sound."""
    if not loss.was.backup.repository:
        raise UsageError("[backup] repository is not set: nothing was sent away", PAGE)
    recovering.sound(loss)
    if not key_file(loss.was).exists():
        raise UsageError(
            f"{key_file(loss.was)} is not here, and without it what was sent away cannot be read",
            "copy it here from where you keep it",
        )


def _bare(at: Scene, loss: Loss) -> None:
    for host, session in at.sessions.items():
        found = ask(session, recovering.is_bare(loss, host))
        if not found.ok:
            message, hint = found.error
            raise PreflightError(f"{host}: {message}", hint)


def _question(loss: Loss) -> str:
    names, drill = ", ".join(loss.hosts), f", as stage {loss.here.name}" if loss.is_drill else ""
    kept = "" if loss.database or not loss.here.has_postgresql else " The database lives elsewhere and is left alone."
    return f"Rebuild {loss.was.application} on {names} from {loss.was.backup.repository}{drill}?{kept}"


def _fetched(at: Scene, loss: Loss, snapshot: str) -> tuple[Release | None, dict[str, str]]:
    """What was live there, None where only the database was lost; and what the host of the application told."""
    facts = _carried_out(at, recovering.fetching(loss, opened(loss.was), snapshot))
    for host, told in facts.items():
        taken = told.get("snapshot", "?")[:19]
        at.tell(Note(f"the state of {taken}; what was written later is not in it", host, warning=True))
    application = facts.get(loss.application.name, {}) if loss.application else {}
    return Release.from_json(application["release"]) if "release" in application else None, application


def _filled(at: Scene, loss: Loss, release: Release | None, lost: LostArchive | None) -> None:
    from_archive = lost is not None and lost.is_used
    for told in _carried_out(at, recovering.filling(loss, release, from_archive=from_archive)).values():
        if "files" in told:
            at.tell(Note(f"{told['files']} files are back"))
        if "database" in told:
            at.tell(Note(f"the database is {told['database']}"))
        if lost and "moment" in told:
            at.tell(Note(lost_of_it(lost, told["moment"]), warning=True))


def _carried_out(at: Scene, plan: Plan) -> dict[str, dict[str, str]]:
    """What the plan found out on each host. FailedError."""
    ending = execute(plan, at.sessions, at.tell, HOURS)
    if ending.code:
        raise FailedError(ending.message, ending.hint or "once that is right, run it again: it begins anew")
    return ending.facts


def _seeds(at: Scene, loss: Loss) -> stores.Seeds:
    """The passwords of the lost server are made known again; those of a drill are its own."""
    if not loss.application:
        return replace(provisioning.known_seeds(at), offsite=opened(loss.here))
    host = loss.application.name
    said = must(ask(at.sessions[host], recovering.read_environment(loss)), host)
    lost = next((one.value for one in said.returned if isinstance(one, Secret)), None)
    if not loss.is_drill:
        return replace(stores.seeds_of(lost), offsite=opened(loss.here))
    return _seeds_of_drill(at, loss, lost or "")


def _seeds_of_drill(at: Scene, loss: Loss, lost: str) -> stores.Seeds:
    known = provisioning.known_seeds(at)
    if known.environment:  # of a run that was cut off, or the stage's own
        if others := recovering.not_as_asked(loss, known.environment.value):
            raise PreflightError(
                f"the variables of stage {loss.here.name} do not say {', '.join(others)} as [recover] does",
                f"fab env.set {others[0]} --stage {loss.here.name}",
            )
        return known
    own = stores.Seeds()
    made = recovering.environment_of_drill(loss, lost, own)
    if names := recovering.carried_over(loss, lost, made):
        at.tell(Note(f"as on the server that was lost, secrets too: {', '.join(names)}", warning=True))
    return replace(own, environment=Secret(made))


def _remaining(at: Scene, loss: Loss) -> list[str]:
    """What the lost server had and nobody has put back."""
    lines = []
    for host in recovering.fetched_on(loss):
        for mark in must(ask(at.sessions[host], recovering.remaining(loss, host), timeout=600), host).marks:
            if mark.kind == "remains":
                what, names, how = mark.words
                lines.append(f"{what} of {host} that are not back: {names} ({how})")
    return lines


def _of_a_person(loss: Loss) -> Iterator[str]:
    """Where no program reaches."""
    here = loss.here
    if loss.is_drill:
        yield f"the drill has the data of {loss.was.name}: look at it, then delete its servers"
        return
    if loss.application:
        yield f"point {here.domain or 'the DNS name'} at the new address, if it has changed"
    others = [host.name for host in here.app_hosts if host.name in loss.hosts and host != loss.application]
    if loss.application and others and here.shared_dirs:
        yield f"{', '.join(here.shared_dirs)} on {', '.join(others)}: only those of {here.primary.name} were sent away"
    if loss.application and here.tls.certificate == "certbot":
        yield "nothing about the certificate: it is back, and renewed once the name leads here (fab check)"
    if loss.application and here.tls.certificate == "files":
        yield f"see that {here.tls.fullchain} is the certificate you renew"
    if loss.application and here.database.engine == "sqlite":
        yield "fab restore-db --date latest: a SQLite file that was sent away while it was written may be torn"


def _serves_again(here: Stage, tell: Tell) -> int:
    """Whether the application, which was never lost, finds its database."""
    session = open_host(here, here.primary)
    try:
        at = Scene(here, tell, {here.primary.name: session}, time.monotonic())
        at.survey()
        current = at.facts[here.primary.name].current
        found = ask(session, releases.healthy(here, here.primary, current)) if current else None
    finally:
        session.close()
    if found and found.ok:
        tell(Note(f"{current} is well with it"))
        return 0
    why = found.error[0] if found else "nothing is live there"
    tell(Note(f"the database is back, and {here.primary.name} is not well: {why}", warning=True))
    tell(Note("has the address of the database changed? fab env.set DATABASE_URL --restart", warning=True))
    return 1


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    times[name] = time.monotonic() - begun


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


TASKS = ("recover",)
