"""Whatever fails at whichever step on whichever host, everything begun is undone and the exit code says what is so."""

from __future__ import annotations

import _thread
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tasks.engine.execute import Ending, Interrupted, Run, execute, together
from tasks.engine.session import Session
from tasks.model.event import Event, HostDown, Note, PhaseStarted, StepFinished, StepStarted, UndoStarted
from tasks.model.plan import Phase, Plan, Step
from tasks.model.shell import script
from tests.local_hosts import open_host, process_of

HOSTS = ("one", "two")
STEPS = (("prepare", "build"), ("prepare", "install"), ("boot", "start"), ("switch", "switch"), ("switch", "beat"))
FUNCTIONS = r"""
# A step leaves a mark, and waits for its fault between two of them: at its worst moment it is half done.
do_step() { : >"$DEPLOY_TO/$1.begun"; fault "$1"; : >"$DEPLOY_TO/$1.done"; }
fault() {
  [ "$(cat "$DEPLOY_TO/fault" 2>/dev/null)" = "$1" ] || return 0
  echo "$BASHPID" >"$DEPLOY_TO/reached"
  case $(cat "$DEPLOY_TO/how") in
    fails) echo 'a line of its own'; die "$1 failed" "mend it" ;;
    killed) bash -c 'kill -9 $$' ;;
    *) sleep 600 ;;
  esac
}
undo_step() {
  [ ! -e "$DEPLOY_TO/undo-fails-$1" ] || die "cannot take $1 back"
  rm -f "$DEPLOY_TO/$1.begun" "$DEPLOY_TO/$1.done"
  echo "$1" >>"$DEPLOY_TO/undone"
}
"""


def make_plan(batch: int = 0, **lasting: bool) -> Plan:
    def step(name: str) -> Step:
        said, undo = script(("do_step", name)), script(("undo_step", name))
        return Step(name, f"Do {name}", said, undo, lasting.get(name, False), seen=name == "switch")

    def phase(name: str, **more: object) -> Phase:
        steps = tuple(step(one) for where, one in STEPS if where == name)
        return Phase(name, name.title(), dict.fromkeys(HOSTS, steps), **more)  # type: ignore[arg-type]

    tidy = Phase("finish", "Tidy", dict.fromkeys(HOSTS, (step("tidy"),)), must=False)
    return Plan(
        "deploy", "test", HOSTS, (phase("prepare"), phase("boot"), phase("switch", batch=batch, visible=True), tidy)
    )


@dataclass
class Fleet:
    folders: dict[str, Path]
    sessions: dict[str, Session]
    events: list[Event] = field(default_factory=list)

    def fault(self, host: str, step: str, how: str) -> None:
        (self.folders[host] / "fault").write_text(step)
        (self.folders[host] / "how").write_text(how)

    def perform(self, plan: Plan) -> Ending:
        return execute(plan, self.sessions, self.events.append, timeout=60)

    def when_reached(self, host: str, do: Callable[[int], None]) -> threading.Thread:
        """Waits until the faulty step says its process id."""

        def watch() -> None:
            place = self.folders[host] / "reached"
            deadline = time.monotonic() + 30
            while not (place.exists() and place.read_text().endswith("\n")):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            do(int(place.read_text()))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def marks(self, host: str) -> set[str]:
        return {path.name for path in self.folders[host].glob("*.begun")}

    def undone(self, host: str) -> list[str]:
        place = self.folders[host] / "undone"
        return place.read_text().split() if place.exists() else []

    def began(self, host: str) -> list[str]:
        """Steps told as begun there, before any undo."""
        forward = itertools.takewhile(lambda event: not isinstance(event, UndoStarted), self.events)
        return [event.step for event in forward if isinstance(event, StepStarted) and event.host == host]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folders = {host: tmp_path / host for host in HOSTS}
    sessions = {host: open_host(folder, host, more=FUNCTIONS) for host, folder in folders.items()}
    try:
        yield Fleet(folders, sessions)
    finally:
        for session in sessions.values():
            session.close()


def assert_events_are_whole(events: list[Event]) -> None:
    """Each step that started finished, on its host, before the next one there started."""
    running: dict[str, str] = {}
    for event in events:
        if isinstance(event, StepStarted):
            assert event.host not in running, f"{event.step} started before {running[event.host]} finished"
            running[event.host] = event.step
        if isinstance(event, StepFinished):
            assert running.pop(event.host) == event.step
            assert event.seconds >= 0
    assert running == {}, "a step started and never finished"


def assert_undone(fleet: Fleet, host: str) -> None:
    """All that began there was taken back, newest first, the half-done step included."""
    assert fleet.marks(host) == set()
    assert fleet.undone(host) == fleet.began(host)[::-1]


def expected_code(step: str, how: str, undone: bool, switched: bool) -> int:
    if how == "interrupted":
        return 130
    if not undone:
        return 6 if switched else 1
    return 5 if switched else 1


CASES = [
    pytest.param(step, how, batch, id=f"{step}-{how}-{'batches' if batch else 'together'}")
    for _, step in STEPS
    for how in ("fails", "lost", "interrupted", "killed")
    for batch in (0, 1)
]


@pytest.mark.parametrize(("step", "how", "batch"), CASES)
def test_a_failure_anywhere_leaves_nothing_behind(fleet: Fleet, step: str, how: str, batch: int) -> None:
    """The second host fails: in batches, the first has switched by then and must come back."""
    fleet.fault("two", step, how)
    if how == "lost":
        pid = process_of(fleet.sessions["two"])
        fleet.when_reached(
            "two", lambda child: [os.kill(pid, signal.SIGKILL), os.killpg(os.getpgid(child), signal.SIGKILL)]
        )
    if how == "interrupted":
        fleet.when_reached("two", lambda _: _thread.interrupt_main())
    ending = fleet.perform(make_plan(batch))

    switched = step in ("switch", "beat")
    assert ending.code == expected_code(step, how, how != "lost", switched)
    assert_undone(fleet, "one")
    if how == "lost":
        assert ending.lost == {"two"}
        assert any(isinstance(event, HostDown) and event.host == "two" for event in fleet.events)
        assert "two" in ending.message
    else:
        assert_undone(fleet, "two")
        assert fleet.began("two")[-1] == step, "something began after the failure"
    assert not any((folder / "tidy.begun").exists() for folder in fleet.folders.values())
    later = [name for _, name in STEPS][[name for _, name in STEPS].index(step) + 1 :]
    if how != "interrupted":
        assert not set(later) & set(fleet.began("two"))
    assert_events_are_whole(fleet.events)


def test_what_failed_is_told_by_name_and_in_its_own_words(fleet: Fleet) -> None:
    fleet.fault("two", "install", "fails")
    ending = fleet.perform(make_plan())
    assert (ending.message, ending.hint) == ("two: install failed", "mend it")
    (failed,) = [event for event in fleet.events if isinstance(event, StepFinished) and not event.ok]
    assert (failed.host, failed.step, failed.log) == ("two", "install", ("a line of its own", "install failed"))


def test_all_well_undoes_nothing_and_leaves_every_mark(fleet: Fleet) -> None:
    ending = fleet.perform(make_plan(batch=1))
    assert (ending.code, ending.lost) == (0, set())
    for host in HOSTS:
        assert fleet.marks(host) == {f"{name}.begun" for name in [*(name for _, name in STEPS), "tidy"]}
        assert fleet.undone(host) == []
    assert_events_are_whole(fleet.events)
    phases = [(event.name, event.hosts) for event in fleet.events if isinstance(event, PhaseStarted)]
    assert phases == [
        ("prepare", HOSTS),
        ("boot", HOSTS),
        ("switch", ("one",)),
        ("switch", ("two",)),
        ("finish", HOSTS),
    ]


def test_no_host_switches_before_every_host_is_prepared(fleet: Fleet) -> None:
    fleet.perform(make_plan())
    order = [(event.phase, event.host) for event in fleet.events if isinstance(event, StepFinished)]
    first_switch = next(place for place, (phase, _) in enumerate(order) if phase == "switch")
    assert all(phase != "boot" for phase, _ in order[first_switch:])


@pytest.mark.parametrize("how", ["fails", "killed", "interrupted"])
def test_what_fails_while_tidying_takes_nothing_back(fleet: Fleet, how: str) -> None:
    """By then the previous generation is gone: to put it back would be the outage."""
    fleet.fault("two", "tidy", how)
    if how == "interrupted":
        fleet.when_reached("two", lambda _: _thread.interrupt_main())
    ending = fleet.perform(make_plan())
    assert ending.code == 0
    assert [fleet.undone(host) for host in HOSTS] == [[], []]
    assert any(
        isinstance(event, Note) and event.warning and "what matters is done" in event.text for event in fleet.events
    )
    assert_events_are_whole(fleet.events)


@pytest.mark.parametrize(
    ("failing", "undo_fails", "lasting", "code"),
    [
        ("start", "build", {}, 1),
        ("switch", "switch", {}, 6),
        ("switch", "build", {}, 6),
        ("start", "install", {"install": True}, 6),
    ],
)
def test_an_undo_that_fails_is_said_and_the_others_go_on(
    fleet: Fleet, failing: str, undo_fails: str, lasting: dict[str, bool], code: int
) -> None:
    fleet.fault("two", failing, "fails")
    (fleet.folders["two"] / f"undo-fails-{undo_fails}").touch()
    ending = fleet.perform(make_plan(**lasting))
    assert ending.code == code
    assert f"two: {undo_fails}: cannot take {undo_fails} back" in ending.message
    assert_undone(fleet, "one")
    assert fleet.undone("two") == [name for name in fleet.began("two")[::-1] if name != undo_fails]
    assert_events_are_whole(fleet.events)


def test_an_undo_that_fails_after_ctrl_c_is_not_called_undone(fleet: Fleet) -> None:
    fleet.fault("two", "switch", "interrupted")
    (fleet.folders["two"] / "undo-fails-switch").touch()
    fleet.when_reached("two", lambda _: _thread.interrupt_main())
    ending = fleet.perform(make_plan())
    assert ending.code == 6
    assert "not all could be undone" in ending.message


def test_an_impatient_second_ctrl_c_does_not_stop_the_undo(fleet: Fleet) -> None:
    fleet.fault("two", "start", "interrupted")
    fleet.when_reached("two", lambda _: _thread.interrupt_main())
    pressed: list[bool] = []

    def tell(event: Event) -> None:
        fleet.events.append(event)
        if isinstance(event, StepStarted) and event.title.startswith("Undo") and len(pressed) < 2:
            pressed.append(True)
            _thread.interrupt_main()
            time.sleep(0.6)

    ending = execute(make_plan(), fleet.sessions, tell, timeout=60)
    assert pressed
    assert ending.code == 130
    for host in HOSTS:
        assert_undone(fleet, host)


def test_ctrl_c_while_the_hosts_are_told_to_stop_leaves_none_at_work() -> None:
    """A second one came out of the barrier, and what undid a host and the host itself took each other's answers."""
    over, finished = threading.Event(), []

    def work(host: str) -> None:
        over.wait(10)
        finished.append(host)

    def stop() -> None:
        if not over.is_set():
            _thread.interrupt_main()
        time.sleep(0.2)
        over.set()

    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(Interrupted):
        together(work, HOSTS, stop)
    assert sorted(finished) == sorted(HOSTS)


def test_ctrl_c_at_any_instant_leaves_no_host_at_work(fleet: Fleet) -> None:
    """Pressed again and again: in the barrier, beside it, and while everything is undone."""
    fleet.fault("two", "start", "interrupted")

    def press(_: int) -> None:
        for _ in range(150):
            _thread.interrupt_main()
            time.sleep(0.001)

    pressing = fleet.when_reached("two", press)
    ending = fleet.perform(make_plan())
    with suppress(KeyboardInterrupt):
        pressing.join()
    assert ending.code == 130
    for host in HOSTS:
        assert_undone(fleet, host)


def test_ctrl_c_while_a_failure_is_undone_does_not_stop_the_undo(fleet: Fleet) -> None:
    fleet.fault("two", "start", "fails")
    pressed: list[bool] = []

    def tell(event: Event) -> None:
        fleet.events.append(event)
        if isinstance(event, UndoStarted):
            pressed.append(True)
            threading.Timer(0.05, _thread.interrupt_main).start()
        if isinstance(event, StepStarted) and event.title.startswith("Undo"):
            time.sleep(0.2)

    ending = execute(make_plan(), fleet.sessions, tell, timeout=60)
    assert pressed
    assert ending.code == 1
    for host in HOSTS:
        assert_undone(fleet, host)


def test_ctrl_c_between_two_phases_is_undone_as_well(fleet: Fleet) -> None:
    """Not while waiting for hosts, but in our own code: the terminal does not choose its moment."""

    def tell(event: Event) -> None:
        fleet.events.append(event)
        if isinstance(event, PhaseStarted) and event.name == "boot":
            raise KeyboardInterrupt

    ending = execute(make_plan(), fleet.sessions, tell, timeout=60)
    assert ending.code == 130
    for host in HOSTS:
        assert fleet.undone(host) == ["install", "build"]


def test_what_ignores_ctrl_c_is_killed_but_never_what_undoes_it(fleet: Fleet) -> None:
    """The kill that follows a stop after some seconds must not reach the undo, however slow that is."""
    fleet.fault("two", "start", "interrupted")
    fleet.when_reached("two", lambda _: _thread.interrupt_main())
    run = Run(make_plan(), fleet.sessions, fleet.events.append, 60)
    assert run.execute().code == 130
    assert run._last_resort.finished.is_set()
    for host in HOSTS:
        assert_undone(fleet, host)


def test_a_step_that_takes_too_long_is_ended_and_undone(fleet: Fleet) -> None:
    fleet.fault("two", "install", "hangs")
    ending = execute(make_plan(), fleet.sessions, fleet.events.append, timeout=2)
    assert ending.code == 1
    assert "two: not done after 2 s" in ending.message
    for host in HOSTS:
        assert_undone(fleet, host)


def test_one_host_alone_is_undone_just_as_well(fleet: Fleet) -> None:
    """Its phases are one script: only the switch and the tidying stay apart."""
    plan = make_plan()
    alone = replace(
        plan, hosts=("one",), phases=tuple(replace(one, steps={"one": one.steps["one"]}) for one in plan.phases)
    )
    fleet.fault("one", "beat", "fails")
    ending = fleet.perform(alone)
    assert ending.code == 5
    assert_undone(fleet, "one")
    assert [event.name for event in fleet.events if isinstance(event, PhaseStarted)] == ["prepare", "switch"]
    assert_events_are_whole(fleet.events)


@pytest.mark.parametrize(("failing", "code"), [("build", 1), ("install", 5)])
def test_what_users_saw_is_said_without_a_switch(fleet: Fleet, failing: str, code: int) -> None:
    """A restored database is seen from the step after it on: its failure is told as put back, the restore's is not."""
    plan = make_plan()
    build, install = plan.phases[0].steps["one"]
    one = replace(plan.phases[0], steps={"one": (build, replace(install, seen=True))})
    fleet.fault("one", failing, "fails")
    ending = fleet.perform(replace(plan, hosts=("one",), phases=(one,)))
    assert ending.code == code
    assert_undone(fleet, "one")


def test_both_hosts_failing_are_both_named(fleet: Fleet) -> None:
    for host in HOSTS:
        fleet.fault(host, "build", "fails")
    ending = fleet.perform(make_plan())
    assert ending.message == "one: build failed; two: build failed"
    assert ending.code == 1
