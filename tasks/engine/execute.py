"""Carries out any plan: phase by phase, hosts together, and everything begun is undone when something fails."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from ..model.event import (
    Event,
    Fact,
    HostDown,
    Note,
    PhaseStarted,
    PlanStarted,
    Said,
    StepFinished,
    StepStarted,
    UndoStarted,
)
from ..model.plan import Phase, Plan, Step
from ..model.shell import Script, script
from .session import LONGEST_REASON, Mark, Result, Session

Tell = Callable[[Event], None]
LOG_LINES = 40
T = TypeVar("T")


@dataclass
class Ending:
    """How a plan ended. `code` as in model.errors.EXIT_CODES."""

    code: int = 0
    message: str = ""
    hint: str = ""
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


class Interrupted(Exception):
    """Ctrl-C; the remote work has ended by now."""


def together(do: Callable[[str], T], hosts: Sequence[str], stop: Callable[[], None]) -> dict[str, T]:
    """The barrier: returns or raises only when every host has finished. Ctrl-C stops the remote work first."""
    with _presses() as pressed, ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        futures: dict[str, Future[T]] = {host: pool.submit(do, host) for host in hosts}
        interrupted = False
        while wait(futures.values(), timeout=0.1).not_done or pressed.is_set():
            if pressed.is_set():
                pressed.clear()
                interrupted = True
                stop()
    if interrupted:
        raise Interrupted
    return {host: future.result() for host, future in futures.items()}


@contextmanager
def _presses() -> Iterator[threading.Event]:
    """Set by Ctrl-C instead of a KeyboardInterrupt, which would leave the barrier with hosts still at work wherever it
    came: what undoes them and they themselves then took each other's answers.
    """
    pressed, ours = threading.Event(), threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if ours else signal.SIG_IGN
    if before in (signal.SIG_IGN, None):
        yield pressed
        return
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def to_the_end(do: Callable[[str], T], hosts: Sequence[str]) -> dict[str, T]:
    """As `together`, deaf to Ctrl-C: half undone is worse than late."""
    done: dict[str, T] = {}

    def keep(host: str) -> None:
        done[host] = do(host)

    with suppress(Interrupted):
        together(keep, hosts, lambda: None)
    return done


def script_for(steps: Sequence[Step]) -> str:
    """One script for a phase on a host; each step says when it begins and ends."""
    return "".join(f"begin {step.name}\n{step.script.text()}end\n" for step in steps)


class Run:
    """One plan under way over open sessions."""

    def __init__(self, plan: Plan, sessions: Mapping[str, Session], tell: Tell, timeout: float = 1800) -> None:
        self.plan, self.sessions, self.tell, self.timeout = plan, sessions, tell, timeout
        self.begun: dict[str, list[tuple[Phase, Step]]] = {host: [] for host in plan.hosts}
        self.ending = Ending(facts={host: {} for host in plan.hosts})
        self._guard = threading.Lock()
        self._last_resort = threading.Timer(0, lambda: None)

    def execute(self) -> Ending:
        """Never raises for what a host does; the ending says it all."""
        self.tell(PlanStarted(self.plan))
        phase: Phase | None = None
        with _presses() as pressed:
            try:
                for phase in self.plan.phases:
                    if pressed.is_set():
                        self._interrupted(phase)
                        break
                    if not self._phase(phase):
                        break
            except (Interrupted, KeyboardInterrupt):
                self._interrupted(phase)
        return self.ending

    def _interrupted(self, phase: Phase | None) -> None:
        """While tidying, what matters has happened and the way back may be gone: nothing is undone then."""
        if phase and not phase.must:
            self._last_resort.cancel()
            self.tell(Note(f"{phase.title}: interrupted (what matters is done)", warning=True))
            return
        self.ending.message = "interrupted"
        self._undo("interrupted")
        if not self.ending.code:
            self.ending.code, self.ending.message = 130, "interrupted; everything begun was undone"

    def _phase(self, phase: Phase) -> bool:
        for hosts in _batches(phase):
            self.tell(PhaseStarted(phase.name, phase.title, hosts))
            results = together(lambda host: self._host(phase, host), hosts, self._stop)
            failed = {host: result for host, result in results.items() if not result.ok}
            if failed and phase.must:
                self._fail(failed)
                return False
            for host, result in failed.items():
                self.tell(Note(f"{phase.title}: {result.error[0]} (what matters is done)", host, warning=True))
        return True

    def _host(self, phase: Phase, host: str) -> Result:
        steps = phase.steps[host]
        listener = Listener(self, phase, host, steps)
        result = self.sessions[host].run(script_for(steps), listener, self.timeout)
        listener.over(result)
        with self._guard:
            self.ending.facts[host].update(result.facts())
            if result.lost:
                # It may have gone further than it could say.
                self.begun[host] += [(phase, step) for step in steps if (phase, step) not in self.begun[host]]
                self.ending.lost.add(host)
                self.tell(HostDown(host, result.lost))
        return result

    def _fail(self, failed: Mapping[str, Result]) -> None:
        reasons = {host: result.error for host, result in failed.items()}
        message, hint = next(iter(reasons.values()))
        if len(self.plan.hosts) > 1:
            message = "; ".join(f"{host}: {reason[0]}" for host, reason in reasons.items())
        seen = any(step.seen for steps in self.begun.values() for _, step in steps)
        self.ending.code, self.ending.message, self.ending.hint = 5 if seen else 1, message, hint
        self._undo(message)

    def _undo(self, reason: str) -> None:
        self._last_resort.cancel()  # it is for what was stopped, not for what undoes it
        hosts = [host for host, steps in self.begun.items() if any(step.undo for _, step in steps)]
        if not hosts:
            return
        self.tell(UndoStarted(reason, tuple(hosts)))
        undone = to_the_end(self._undo_host, hosts)
        left = {host: what for host, what in undone.items() if what}
        if left:
            told = "; ".join(f"{host}: {what}" for host, what in left.items())
            seen = (phase.visible or step.lasting for host in left for phase, step in self.begun[host])
            self.ending.code = 6 if any(seen) else self.ending.code or 1
            self.ending.message += f"\nand not all could be undone: {told}"
            self.ending.hint = self.ending.hint or "`fab status` shows what each host serves; `fab repair` tidies"

    def _undo_host(self, host: str) -> str:
        """What could not be undone there; "" when all was."""
        session = self.sessions[host]
        if not session.alive:
            return "the connection is lost; what it does now is unknown"
        left = []
        for phase, step in reversed(self.begun[host]):
            if step.undo:
                back = Step(step.name, f"Undo: {step.title}", step.undo)
                listener = Listener(self, phase, host, (back,), undo=True)
                result = session.run(script_for((back,)), listener, timeout=600)
                listener.over(result)
                with self._guard:
                    self.ending.facts[host].update(result.facts())
                if not result.ok:
                    left.append(f"{step.name}: {result.error[0]}")
        return "; ".join(left)

    def _stop(self) -> None:
        """Twice: what does not listen is killed."""
        self._last_resort.cancel()
        for session in self.sessions.values():
            session.stop()
        self._last_resort = threading.Timer(8, self._kill)
        self._last_resort.daemon = True
        self._last_resort.start()

    def _kill(self) -> None:
        for session in self.sessions.values():
            session.kill()


class Listener:
    """Turns what one host says during one phase into events."""

    def __init__(self, run: Run, phase: Phase, host: str, steps: Sequence[Step], *, undo: bool = False) -> None:
        self.run, self.phase, self.host, self.undo = run, phase, host, undo
        self.steps = {step.name: step for step in steps}
        self.step: Step | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.since = time.monotonic()

    def __call__(self, heard: Mark | str) -> None:
        name = self.step.name if self.step else ""
        match heard:
            case str():
                self.log.append(heard)
                self.run.tell(Said(self.host, name, heard))
            case Mark("begin", (begun, *_)):
                self._begin(self.steps[begun])
            case Mark("end", (_, microseconds, *_)):
                self._finish(True, int(microseconds) / 1e6)
            case Mark("fact", (fact, value, *_)):
                self.run.tell(Fact(self.host, name, fact, value))
            case Mark("warn", (text, *_)):
                self.run.tell(Note(text, self.host, warning=True))
            case Mark("error", (message, *_)):
                self.log.append(message[:LONGEST_REASON])

    def over(self, result: Result) -> None:
        """The script has ended: a step still open failed."""
        if self.step:
            if result.lost:
                self.log.append(result.lost)
            self._finish(False, time.monotonic() - self.since)

    def _begin(self, step: Step) -> None:
        self.step, self.log, self.since = step, deque(maxlen=LOG_LINES), time.monotonic()
        if not self.undo:
            with self.run._guard:
                self.run.begun[self.host].append((self.phase, step))
        self.run.tell(StepStarted(self.phase.name, step.name, step.title, self.host))

    def _finish(self, ok: bool, seconds: float) -> None:
        if self.step:
            log = () if ok else tuple(self.log)
            self.run.tell(StepFinished(self.phase.name, self.step.name, self.step.title, self.host, ok, seconds, log))
        self.step = None


def _batches(phase: Phase) -> list[tuple[str, ...]]:
    size = phase.batch or max(1, len(phase.hosts))
    return [phase.hosts[start : start + size] for start in range(0, len(phase.hosts), size)]


def execute(plan: Plan, sessions: Mapping[str, Session], tell: Tell, timeout: float = 1800) -> Ending:
    """Carry out `plan`; `timeout` in seconds for one phase on one host."""
    return Run(plan.merged(), sessions, tell, timeout).execute()


def ask(session: Session, what: Script, timeout: float = 120) -> Result:
    """Something said outside a plan: a survey."""
    return session.run(what.text() or script(("true",)).text(), timeout=timeout)
