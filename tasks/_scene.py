"""From a task's flags to open sessions on the right hosts, and from a plan to its last word."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import invoke

from ._operator import chosen, who
from .engine.execute import Tell, ask, execute
from .engine.local import open_local
from .engine.session import Result, Session, new_nonce
from .model.config import Host, Stage, seconds
from .model.errors import FailedError, HostLost, LockedError, PreflightError, ReleasesError
from .model.event import Note, PlanFinished
from .model.facts import HostFacts
from .model.plan import Plan
from .model.shell import Script
from .remote import files, library, survey
from .remote.adopt import as_deployer
from .report.choose import reporters
from .report.reporter import together
from .report.safe import clean, out, out_json


@contextmanager
def talk(*, json: bool = False) -> Iterator[Tell]:
    """Where events go, as flags, environment and terminal say."""
    with together(reporters(json=json, environ=os.environ, isatty=sys.stderr.isatty())) as tell:
        yield tell


@dataclass
class Scene:
    """Open sessions on the chosen hosts of a stage, and what they said."""

    stage: Stage
    tell: Tell
    sessions: dict[str, Session]
    started: float
    facts: dict[str, HostFacts] = field(default_factory=dict)
    away: dict[str, ReleasesError] = field(default_factory=dict)
    """Hosts that could not be reached, where a task can do without."""
    identity: str = ""
    """A private key named on the command line."""
    as_admin: bool = False
    """The sessions are root's."""

    def together(self, do: Any, hosts: Iterable[str] | None = None) -> dict[str, Any]:
        """What `do` says of each session, or of those of `hosts`."""
        among = {name: self.sessions[name] for name in (self.sessions if hosts is None else hosts)}
        with ThreadPoolExecutor(max_workers=max(1, len(among))) as pool:
            futures = {name: pool.submit(do, session) for name, session in among.items()}
            return {name: future.result() for name, future in futures.items()}

    @property
    def with_releases(self) -> list[str]:
        return [name for name in self.sessions if self.stage.host(name).has_releases]

    def lock(self, what: str, wait: str = "") -> None:
        """On every host, or on none. LockedError names the holder."""
        line = f"{who()} (process {os.getpid()}): {what}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        patience = time.monotonic() + (seconds(wait) if wait else 0)
        finishing = time.monotonic() + 100
        said = False
        while True:
            holders = self.together(lambda session: session.lock(line))
            busy = {host: holder for host, holder in holders.items() if holder}
            if not busy:
                return
            host, holder = next(iter(busy.items()))
            # A run whose operator is gone ends by itself; the server knows that later than this machine.
            if time.monotonic() >= (finishing if "finishing:" in holder or _is_dead(holder) else patience):
                raise LockedError(
                    f"{host} is locked by {clean(holder)}",
                    "wait for it, or `--wait 10m`; it is free when that run ends",
                )
            if not said:
                self.tell(Note(f"waiting for {holder}", host))
                said = True
            for free in set(holders) - set(busy):
                self.sessions[free].unlock()
            time.sleep(0.3)

    def say(self, what: Script) -> None:
        """To every host, outside a plan. FailedError with the first one's reason."""
        for host, result in self.together(lambda session: ask(session, what)).items():
            must(result, host)

    def said(self, what: Script, timeout: float = 120) -> Result:
        """By the first host, outside a plan; its warnings are told. `timeout` in seconds."""
        session = next(iter(self.sessions.values()))
        result = ask(session, what, timeout=timeout)
        for mark in result.marks:
            if mark.kind == "warn":
                self.tell(Note(mark.words[0], session.host, warning=True))
        return result

    def answer(self, what: Script, timeout: float = 120) -> Result:
        """As `said`. FailedError with its own words."""
        return must(self.said(what, timeout), next(iter(self.sessions)))

    def survey(
        self, *more: Script, all_hosts: tuple[Script, ...] = (), primary: Script | None = None
    ) -> dict[str, dict[str, str]]:
        """Fills `facts`, of hosts with releases. `more` is asked of the first only, `all_hosts` of each, `primary` of
        the one that migrates, all at once.
        """
        first = next(iter(self.with_releases), "")

        def look(session: Session) -> tuple[HostFacts, Any]:
            said = survey.survey(self.stage)
            if self.as_admin:  # root opens nothing in folders of the account's
                said = as_deployer(self.stage.host(session.host), said)
            for one in (*all_hosts, *(more if session.host == first else ())):
                said += one
            if primary and session.host == self.stage.primary.name:
                said += primary
            result = ask(session, said)
            marks = [(mark.kind, *mark.words) for mark in result.marks]
            return survey.parse(session.host, marks), result

        extra = {}
        for host, (facts, result) in self.together(look, self.with_releases).items():
            if not result.ok:
                message, hint = result.error
                raise (HostLost if result.lost else PreflightError)(
                    f"{host}: {message}" + _last_lines(result.log), hint
                )
            self.facts[host] = facts
            extra[host] = result.facts()
        return extra

    def settle(self, repair: Callable[[HostFacts], Script]) -> None:
        """What an interrupted run left undecided is decided before anything is planned on it."""
        undecided = [host for host, facts in self.facts.items() if facts.undecided]
        for host in undecided:
            self.tell(Note("an earlier run was interrupted: setting it right first", host))
            must(ask(self.sessions[host], repair(self.facts[host]), timeout=300), host)
        if undecided:
            self.survey()

    def thawed(self) -> None:
        """LockedError when frozen."""
        for host, facts in self.facts.items():
            if facts.freeze:
                raise LockedError(f"{host} is frozen: {clean(facts.freeze.strip())}", "`fab unfreeze` lifts it")

    def fit(self) -> None:
        """PreflightError with everything that stands in the way, LockedError when frozen."""
        self.thawed()
        problems = [(host, *problem) for host, facts in self.facts.items() for problem in facts.problems]
        if problems:
            several = len(self.facts) > 1
            told = "\n".join(
                f"  {host + ': ' if several else ''}{clean(what)}\n    -> {clean(hint)}"
                for host, what, hint in problems
            )
            raise PreflightError(f"not fit for this; nothing was touched\n{told}")

    def perform(self, plan: Plan, done: str, sha: str = "", timeout: float = 0) -> int:
        """Carries the plan out, tells the last word, returns the exit code. `timeout` in seconds for a phase: 0, what
        the stage gives a build.
        """
        before = {host: {"previous": facts.current} for host, facts in self.facts.items()}
        ending = execute(plan, self.sessions, self.tell, timeout or seconds(self.stage.build_timeout))
        serves = {
            host: "?" if host in ending.lost else ending.facts[host].get("current", self.facts[host].current)
            for host in plan.hosts
            if host in self.facts
        }
        self.finish(
            PlanFinished(
                plan,
                ending.code,
                done if ending.code == 0 else ending.message,
                time.monotonic() - self.started,
                ending.hint,
                {host: before[host] | {"sha": sha} | ending.facts[host] for host in serves},
                serves,
            )
        )
        return ending.code

    def finish(self, event: PlanFinished) -> None:
        self.tell(event)
        variable = self.stage.notify.webhook_variable
        if variable and os.environ.get(variable):
            from .report.webhook import notify

            warning = notify(os.environ[variable], event)
            if warning:
                self.tell(Note(warning, warning=True))


def _is_dead(holder: str) -> bool:
    """Whether the lock's holder was a process of ours, on this machine, that is gone."""
    found = re.match(re.escape(who()) + r" \(process (\d+)\): ", holder)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def _last_lines(log: tuple[str, ...]) -> str:
    lines = [clean(line) for line in log if line.strip()][-5:]
    return "".join(f"\n  {line}" for line in lines)


@contextmanager
def scene(
    context: invoke.Context,
    stage: Stage,
    tell: Tell,
    *,
    as_admin: bool = False,
    among: tuple[Host, ...] | None = None,
    also: tuple[Host, ...] = (),
    patient: bool = False,
) -> Iterator[Scene]:
    """Connects to the chosen hosts (of `among`; without: those that are deployed to), all at once; closes whatever
    happens.

    `as_admin`: as root, with the functions that set servers up. `also`: whatever -H says. `patient`: one that cannot be
    reached is noted, unless it is all of them.
    """
    started = time.monotonic()
    hosts = (*chosen(stage, context, among), *also)
    identity = next(iter(context.config.get("identity", ())), "")
    opened: dict[str, Session] = {}
    away: dict[str, ReleasesError] = {}

    def connect(host: Host) -> None:
        more = "provision" if as_admin else ""
        try:
            opened[host.name] = open_host(stage, host, identity, as_admin=as_admin, more=more)
        except HostLost as error:
            if not patient:
                raise
            away[host.name] = error

    try:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(connect, hosts))
        if not opened:
            raise next(iter(away.values()))
        reached = {host.name: opened[host.name] for host in hosts if host.name in opened}
        yield Scene(stage, tell, reached, started, away=away, identity=identity, as_admin=as_admin)
    finally:
        for session in opened.values():
            session.close()


def open_host(stage: Stage, host: Host, identity: str = "", *, as_admin: bool = False, more: str = "") -> Session:
    """`more` names a folder of templates/ whose functions this session has as well."""
    nonce = new_nonce()
    functions = library.library(more) if more else ""
    if host.transport == "local":
        tools = Path(sys.executable).parent
        variables = files.supervisor(stage, tools) if stage.manager == "supervisor" else {}
        return open_local(host.name, library.opening(stage, host, nonce, variables, functions), nonce, tools)
    from .engine.ssh import Target, open_ssh

    user = stage.provision.admin if as_admin else host.user
    sudo = as_admin and user != "root"
    target = Target(host.name, host.address, host.port, user, host.host_key, host.identity or identity, sudo)
    return open_ssh(target, library.opening(stage, host, nonce, more=functions), nonce)


def must(result: Result, host: str) -> Result:
    """The result itself. FailedError with its own words when it is not ok."""
    if not result.ok:
        message, hint = result.error
        raise FailedError(f"{host}: {message}" + _last_lines(result.log), hint)
    return result


def show_plan(plan: Plan, *, json: bool) -> int:
    """What a dry run prints; 0."""
    from .report import paper

    out_json(paper.to_json(plan)) if json else out(paper.to_text(plan))
    return 0
