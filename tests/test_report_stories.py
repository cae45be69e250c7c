"""Whole deploys, good and bad, through every reporter, compared with golden files (UPDATE_GOLDEN=1 rewrites them)."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.model.event import (
    Event,
    Fact,
    HostDown,
    Note,
    PhaseStarted,
    PlanFinished,
    PlanStarted,
    Said,
    StepFinished,
    StepStarted,
    UndoStarted,
)
from tasks.model.plan import Phase, Plan, Step
from tasks.model.shell import Secret, script
from tasks.report import github, gitlab, outcome, paper, webhook
from tasks.report.console import Console
from tasks.report.jsonl import Jsonl
from tasks.report.plain import Plain

NEW = "20261122-101530-9f3c2ab"
OLD = "20261120-090000-1111111"
SHA = "9f3c2ab" + "0" * 33
PASSWORD = "correct-horse-battery-staple"
GOLDEN = Path(__file__).parent / "golden" / "report"

CHECKOUT = Step(
    "checkout", f"check out {NEW[-7:]}", script(("checkout", SHA, f"staging/{NEW}")), script(("discard", NEW))
)
VENV = Step("venv", "install requirements", script(("venv", NEW, Secret(PASSWORD)), ("compile", NEW)))
MIGRATE = Step("migrate", "migrate the database", script(("migrate", NEW)), script(("reverse", "sales", "0002")))
SWITCH = Step("switch", "switch current", script(("switch", NEW)), script(("switch", OLD), ("stop", f"web@{NEW}")))
PROVE = Step("prove", "ask the front door", script(("probe", "https://pos.example/healthz", NEW)))


def deploy(*hosts: str) -> Plan:
    def same(*steps: Step) -> dict[str, tuple[Step, ...]]:
        return dict.fromkeys(hosts, steps)

    return Plan(
        verb="deploy",
        stage="production",
        hosts=hosts,
        release=NEW,
        note="main is 9f3c2ab by ada, 3 commits newer",
        phases=(
            Phase("prepare", "Prepare", same(CHECKOUT, VENV) | {hosts[0]: (CHECKOUT, VENV, MIGRATE)}),
            Phase("switch", "Switch", same(SWITCH, PROVE), batch=1, visible=True),
            Phase("tidy", "Tidy", same(Step("keep", "delete old releases", script(("keep", 5)))), must=False),
        ),
    )


def step(phase: str, what: Step, host: str, took: float, *said: str, ok: bool = True) -> list[Event]:
    return [
        StepStarted(phase, what.name, what.title, host),
        *(Said(host, what.name, line) for line in said),
        StepFinished(phase, what.name, what.title, host, ok, took, () if ok else said),
    ]


def prepared(*hosts: str) -> list[Event]:
    events: list[Event] = [PlanStarted(deploy(*hosts)), PhaseStarted("prepare", "Prepare", hosts)]
    for place, host in enumerate(hosts, start=1):
        events += step("prepare", CHECKOUT, host, 0.03 + place / 100)
    for place, host in enumerate(hosts, start=1):
        events += step("prepare", VENV, host, 7.5 + place, "Resolved 41 packages in 0.1s")
    return [*events, *step("prepare", MIGRATE, hosts[0], 2.25, "Applying sales.0003_discount... OK")]


def switched(*hosts: str) -> list[Event]:
    events: list[Event] = [PhaseStarted("switch", "Switch", hosts)]
    for host in hosts:
        events += [*step("switch", SWITCH, host, 0.12), Fact(host, "switch", "previous", OLD)]
    return events


def all_well(*hosts: str) -> list[Event]:
    facts = {host: {"previous": OLD, "sha": SHA} for host in hosts}
    return [
        *prepared(*hosts),
        *switched(*hosts),
        *(event for host in hosts for event in step("switch", PROVE, host, 0.4)),
        PhaseStarted("tidy", "Tidy", hosts),
        Note("3 releases are pinned and stay", host=hosts[0]),
        PlanFinished(deploy(*hosts), 0, f"{NEW} is live", 14.24, "", facts, dict.fromkeys(hosts, NEW)),
    ]


BROKEN_PAGE = (
    "GET /healthz: 500",
    "\x1b[31mTraceback (most recent call last):\x1b[0m",
    '  File "views.py", line 7, in health',
    "::error title=forged::not a command of ours",
    "##[add-mask]neither is this",
    "KeyError: 'PRICE_LIST' ```",
)


def put_back() -> list[Event]:
    hosts = "web1", "web2"
    undone = Step("switch", "switch current", script())
    return [
        *prepared(*hosts),
        *switched(*hosts),
        *step("switch", PROVE, "web1", 0.4),
        *step("switch", PROVE, "web2", 20.02, *BROKEN_PAGE, ok=False),
        UndoStarted("ask the front door failed on web2", hosts),
        *step("undo", undone, "web1", 0.1),
        *step("undo", undone, "web2", 0.11),
        PlanFinished(
            deploy(*hosts),
            5,
            f"{NEW} answered 500 and was put back",
            43.5,
            "fab logs --stage production --host web2",
            {host: {"previous": OLD} for host in hosts},
            dict.fromkeys(hosts, OLD),
        ),
    ]


def one_host_lost() -> list[Event]:
    hosts = "web1", "web2"
    return [
        *prepared(*hosts),
        PhaseStarted("switch", "Switch", hosts),
        *step("switch", SWITCH, "web1", 0.12),
        StepStarted("switch", "switch", "switch current", "web2"),
        HostDown("web2", "no answer for 30 s"),
        Note("could not be asked to undo", host="web2", warning=True),
        PlanFinished(
            deploy(*hosts),
            6,
            "web2 did not answer while it switched",
            75,
            "fab status --stage production",
            {},
            {"web1": OLD, "web2": "?"},
        ),
    ]


STORIES: dict[str, list[Event]] = {
    "one-host": all_well("pos.example"),
    "two-hosts": all_well("web1", "web2"),
    "put-back": put_back(),
    "host-lost": one_host_lost(),
}


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    assert text == path.read_bytes().decode(), f"{path} differs; UPDATE_GOLDEN=1 accepts it"


def plain(events: Sequence[Event]) -> str:
    stream = io.StringIO()
    tell(Plain(stream, clock=lambda: 0.0), events)
    return stream.getvalue()


def jsonl(events: Sequence[Event]) -> str:
    stream = io.StringIO()
    tell(Jsonl(stream, now=lambda: datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)), events)
    return stream.getvalue()


def on_gitlab(events: Sequence[Event]) -> str:
    stream = io.StringIO()
    tell(Plain(stream, gitlab.sections(clock=lambda: 1795342530.0), clock=lambda: 0.0), events)
    return stream.getvalue()


def on_github(events: Sequence[Event]) -> str:
    stream = io.StringIO()
    log, summary = Plain(stream, github.SECTIONS, clock=lambda: 0.0), github.Summary(stream, {})
    for event in events:
        log(event)
        summary(event)
    log.close()
    return stream.getvalue()


def github_summary(events: Sequence[Event]) -> str:
    finished = events[-1]
    assert isinstance(finished, PlanFinished)
    return github.summary(finished, [event for event in events if isinstance(event, StepFinished)])


def terminal(events: Sequence[Event]) -> str:
    """What stays on an 80 column terminal without colours, the live table wiped."""
    from rich.console import Console as Terminal

    stream = io.StringIO()
    screen = Terminal(
        file=stream, force_terminal=True, width=80, no_color=True, highlight=False, _environ={"TERM": "xterm"}
    )
    tell(Console(screen, clock=lambda: 0.0), events)
    return seen(stream.getvalue())


def seen(written: str) -> str:
    """The screen after all cursor moves that the live table makes: up a line, erase the line, return."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row = max(0, row - int(up[1]))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] not in "\x1b\r":
            lines[row] += part
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def tell(reporter: Plain | Jsonl | Console, events: Sequence[Event]) -> None:
    try:
        for event in events:
            reporter(event)
    finally:
        reporter.close()


SHOWN: dict[str, Callable[[Sequence[Event]], str]] = {
    "plain.txt": plain,
    "terminal.txt": terminal,
    "jsonl.txt": jsonl,
    "github.txt": on_github,
    "github.md": github_summary,
    "gitlab.txt": on_gitlab,
}


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("story", STORIES)
def test_a_deploy_reads_as_it_did_when_a_person_last_looked(story: str, shown: str) -> None:
    golden(f"{story}.{shown}", SHOWN[shown](STORIES[story]))


@pytest.mark.parametrize("shown", SHOWN)
def test_a_password_in_a_plan_reaches_no_reader(shown: str) -> None:
    for story in STORIES.values():
        assert PASSWORD not in SHOWN[shown](story)


def test_a_password_in_a_plan_reaches_no_paper_and_no_webhook() -> None:
    plan = deploy("web1", "web2")
    finished = STORIES["put-back"][-1]
    assert isinstance(finished, PlanFinished)
    assert PASSWORD not in f"{paper.to_text(plan)}{paper.to_json(plan)}{webhook.message(finished)}"


def test_a_plan_reads_as_it_did_when_a_person_last_looked() -> None:
    golden("plan.txt", paper.to_text(deploy("web1", "web2", "web3")))


def test_a_plan_of_one_host_reads_as_it_did_when_a_person_last_looked() -> None:
    golden("plan-one-host.txt", paper.to_text(deploy("pos.example").merged()))


def test_a_plan_without_steps_says_so() -> None:
    assert "nothing to do" in paper.to_text(Plan("deploy", "production", ("web1",), ()))


def test_the_lines_of_a_phase_keep_every_hosts_order() -> None:
    first, middle, last = (Step(name, name, script((name,))) for name in ("first", "middle", "last"))
    phase = Phase("prepare", "Prepare", {"web1": (first, last), "web2": (first, middle, last)})
    plan = Plan("deploy", "production", ("web1", "web2"), (phase,))
    steps = paper.to_json(plan)["phases"][0]["steps"]
    assert [(one["name"], one["hosts"]) for one in steps] == [
        ("first", ["web1", "web2"]),
        ("middle", ["web2"]),
        ("last", ["web1", "web2"]),
    ]


def test_hosts_that_fail_alike_are_told_once() -> None:
    failed = [StepFinished("prepare", "venv", "install", host, False, 1, ("no space left",)) for host in ("a", "b")]
    text = outcome.to_text(PlanFinished(deploy("a", "b"), 1, "no room", 3), failed)
    assert "install on a, b after" in text
    assert text.count("no space left") == 1


def test_a_failure_says_only_its_last_twenty_lines() -> None:
    failed = StepFinished("prepare", "venv", "install", "a", False, 1, tuple(f"line {one}" for one in range(30)))
    text = outcome.to_text(PlanFinished(deploy("a"), 1, "no room", 3), [failed])
    assert "line 9\n" not in text
    assert "line 10\n" in text
    assert "line 29\n" in text
