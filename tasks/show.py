"""`fab status`, `releases`, `history`, `logs`: what is so, without logging in anywhere."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import invoke

from ._operator import confirm, load_stage, now, strong, who
from ._scene import Scene, must, scene, talk
from ._task import task
from .engine.execute import Interrupted, ask, together
from .engine.session import Mark
from .model.event import Note
from .model.facts import RoleState
from .model.release import valid_id
from .model.shell import Script, script
from .model.standing import Standing
from .remote import backup, operate, roles, survey
from .report.safe import out, out_json


@task()
def status(context: invoke.Context, stage: str = "", json: bool = False) -> int:
    """What every host serves, what runs, who holds the lock, what differs; exit 1 where one does not do its part."""
    from .report import tables

    here = load_stage(stage)
    with talk() as tell, scene(context, here, tell, among=here.hosts, patient=True) as at:
        at.survey(primary=backup.look(here))
        facts = tuple(at.facts.values())
        primary = at.facts.get(here.primary.name)
        standing = Standing.from_facts(here.backup, primary.more) if primary else None
        beside = tables.Beside(_roles(at), {host: error.message for host, error in at.away.items()}, standing)
        _print(tables.status_json(facts, now(), beside) if json else tables.status(facts, now(), strong(), beside))
        return 0 if beside.is_well else 1


def _roles(at: Scene) -> tuple[RoleState, ...]:
    """How the hosts do that are there for the database, Redis, or to balance."""
    asked = {host: look for host in at.sessions if (look := roles.look(at.stage, at.stage.host(host)))}
    said = at.together(lambda session: ask(session, asked[session.host]), asked)
    return tuple(
        state
        for host, result in said.items()
        for state in roles.parse(at.stage, host, [(mark.kind, *mark.words) for mark in must(result, host).marks], now())
    )


@task(help={"pin": "never tidy away this release", "unpin": "let this release be tidied away again"})
def releases(context: invoke.Context, stage: str = "", pin: str = "", unpin: str = "", json: bool = False) -> None:
    """The releases kept on each host, and which may be rolled back to."""
    from .report import tables

    named = valid_id(pin or unpin) if pin or unpin else ""
    with _quiet(context, stage) as at:
        if named:
            at.lock("pin a release")
            at.say(operate.pin(named, on=bool(pin)))
        at.survey(all_hosts=(survey.sizes(),))
        facts = tuple(at.facts.values())
        _print(tables.releases_json(facts) if json else tables.releases(facts, now(), strong()))


@task(help={"limit": "how many entries"})
def history(context: invoke.Context, stage: str = "", limit: int = 20, json: bool = False) -> None:
    """Who put what live when, who went back, and why."""
    from .report import tables

    with _quiet(context, stage) as at:
        at.survey()
        facts = tuple(at.facts.values())
        _print(tables.history_json(facts, limit) if json else tables.history(facts, now(), limit, strong()))


@task(
    help={
        "service": "web, worker, beat or nginx (default: all)",
        "lines": "how many lines to begin with",
        "follow": "go on until Ctrl-C",
    }
)
def logs(context: invoke.Context, stage: str = "", service: str = "", lines: int = 50, follow: bool = False) -> None:
    """What the services of the live release say, from every host."""
    with _quiet(context, stage) as at:
        several = len(at.sessions) > 1

        def show(host: str) -> Any:
            session = at.sessions[host]
            tag = f"{host}  " if several else ""

            def hear(heard: Mark | str) -> None:
                if isinstance(heard, str):
                    out(f"{tag}{heard}")

            text = operate.logs(service, lines, follow=follow).text()
            return session.run(text, hear, timeout=10**7 if follow else 60, patient=True)

        def stop() -> None:
            for session in at.sessions.values():
                session.stop()

        with suppress(Interrupted):  # Ctrl-C is how following ends
            for host, result in together(show, tuple(at.sessions), stop).items():
                must(result, host)


@task(help={"message": "why, shown to whoever tries"})
def freeze(context: invoke.Context, message: str, stage: str = "") -> None:
    """Refuse deploys and rollbacks until `fab unfreeze`, with a message."""
    _mutate(context, stage, "freeze", operate.freeze(f"{message} ({who()}, {now():%Y-%m-%d %H:%M} UTC)"), "frozen")


@task()
def unfreeze(context: invoke.Context, stage: str = "") -> None:
    """Allow deploys and rollbacks again."""
    _mutate(context, stage, "unfreeze", operate.unfreeze(), "not frozen any more")


@task(help={"state": "on or off", "message": "what visitors read"}, positional=["state"])
def maintenance(
    context: invoke.Context, state: str, stage: str = "", message: str = "We will be back in a moment."
) -> None:
    """Show visitors a maintenance page (on), or the application again (off)."""
    _mutate(context, stage, f"maintenance {state}", operate.maintenance(state, message), f"maintenance is {state}")


@task()
def cleanup(context: invoke.Context, stage: str = "") -> None:
    """Remove what no release needs: old releases, leftovers, old static files, loose git objects."""
    here = load_stage(stage)
    _mutate(context, stage, "cleanup", operate.cleanup(here), "tidy")


@task()
def stop(context: invoke.Context, stage: str = "", yes: bool = False) -> None:
    """Stop every service of the application; `fab start` or a deploy brings it back."""
    here = load_stage(stage)
    if here.manager == "systemd":
        confirm(f"Stop {here.application} on stage {here.name}? Visitors will see an error page.", yes=yes)
    _mutate(context, stage, "stop", script(("stop_all",)), "stopped")


@task()
def start(context: invoke.Context, stage: str = "") -> None:
    """Start the services of the live release."""
    _mutate(context, stage, "start", script(("start_all",)), "started")


class _quiet:
    """A scene whose events are few: notes go to stderr."""

    def __init__(self, context: invoke.Context, stage: str) -> None:
        self.context, self.stage = context, load_stage(stage)

    def __enter__(self) -> Scene:
        self.talk = talk()
        self.scene = scene(self.context, self.stage, self.talk.__enter__())
        return self.scene.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.scene.__exit__(*error)
        self.talk.__exit__(*error)


def _mutate(context: invoke.Context, stage: str, what: str, said: Script, done: str) -> None:
    with _quiet(context, stage) as at:
        at.lock(what)
        at.say(said)
        at.tell(Note(f"{at.stage.name}: {done}"))


def _print(what: Any) -> None:
    if isinstance(what, str):
        out(what.rstrip("\n"), styled=True)
    else:
        out_json(what)


TASKS = (
    "status",
    "releases",
    "history",
    "logs",
    "freeze",
    "unfreeze",
    "maintenance",
    "cleanup",
    "stop",
    "start",
)
