"""What is asked of a host to find out what is wrong with it, and how the answers are read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from ...model.config import Host, Stage
from ...model.facts import HostFacts
from ...model.finding import Finding, bad, look, ok, skipped
from ...model.release import last_live
from ...model.shell import Script, script
from .. import survey
from . import application, backups, machine, roles
from .question import Answer, Question

LONGEST = 14
"""Seconds for all questions together: they are asked at once."""
Marks = Iterable[tuple[str, ...]]


def questions(stage: Stage, host: Host, ref: str, now: datetime) -> tuple[Question, ...]:
    """In the order in which the findings are shown."""
    survey_first = (Question("survey", ("survey", 0), surveyed_by, remedy="fab status"),) if host.has_releases else ()
    return (
        *survey_first,
        *machine.questions(stage, host),
        *roles.questions(stage, host),
        *application.questions(stage, host, ref, now),
        *backups.apart(stage, host, now),
    )


def ask(asked: Iterable[Question]) -> Script:
    """Functions of templates/doctor, all in one go; the survey's marks go their own way."""
    calls = [("question", one.what, one.seconds, *one.call) for one in asked]
    return script(("tell_time",), *calls, ("answers", LONGEST))


def answers(marks: Marks) -> Mapping[str, tuple[str, int | None]]:
    """Question -> what was said, and its exit status; None when it could not even be ended."""
    found = {}
    for mark in marks:
        if len(mark) == 3 and mark[0] == "answer":
            text = base64.b64decode(mark[2]).decode(errors="replace")
            said, _, status = text.rpartition("\nstatus ")
            found[mark[1]] = (said, int(status)) if status.strip().isdecimal() else (text, None)
    return found


def exposed(stage: Stage, host: Host, marks: Marks) -> tuple[int, ...]:
    """Ports to try from the operator's machine."""
    text, _ = answers(marks).get("ports", ("", None))
    return tuple(machine.exposed(stage, host, Answer(text)))


def read(
    asked: Iterable[Question], marks: Marks, host: str, reached: frozenset[int] = frozenset()
) -> Iterator[Finding]:
    """One finding or more for each question, whatever was or was not answered."""
    marks = tuple(marks)
    said, facts = answers(marks), survey.parse(host, (mark for mark in marks if mark[0] != "answer"))
    for one in asked:
        yield from one.heard(Answer(*said[one.what], facts, reached) if one.what in said else None)


def surveyed_by(answer: Answer) -> Iterator[Finding]:
    """ValueError where it could not be made: that nothing was found then says nothing."""
    if answer.status != 0:
        raise ValueError
    yield from surveyed(answer.facts)


def surveyed(facts: HostFacts) -> Iterator[Finding]:
    """What every plan begins with."""
    if facts.lock:
        yield bad("lock", f"locked by {facts.lock}", "wait, or deploy with --wait 10m")
    if facts.freeze:
        yield bad("freeze", f"frozen: {facts.freeze.strip()}", "fab unfreeze")
    if facts.maintenance:
        yield look("maintenance", "visitors see the maintenance page", "fab maintenance off")
    for left in facts.leftovers:
        yield look("leftover", f"left behind by an interrupted run: {left}", "fab repair, or just deploy")
    tools: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for what, hint in facts.problems:
        if " inodes are free" not in what:  # said with the disk
            (tools if what.endswith("is not installed") else others).append((what, hint))
    yield from (bad("tools", what, hint) for what, hint in tools)
    yield from (bad("folder", what, hint) for what, hint in others)
    if not tools:
        yield ok("tools", "git, python3, flock, sha256sum, tar, timeout")
    if facts.undecided and not facts.lock:
        recorded = last_live(facts.journal) or "another release"
        yield bad("release", f"current does not lead to {recorded}, which was recorded as live", "fab repair")
    elif facts.current in ("", "!directory"):
        yield skipped("release", "nothing is live here yet")
    else:
        yield ok("release", f"{facts.current} is live")


def clock(sent: float, told: float, heard: float) -> Finding:
    """The server told its time somewhere between two moments of this machine: seconds since 1970, all three."""
    skew = told - heard if told > heard else min(0.0, told - sent)
    if abs(skew) <= 2:
        return ok("clock", f"as yours, within {max(heard - sent, abs(skew)):.1f} s")
    value = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} yours"
    return (bad if abs(skew) > 30 else look)("clock", value, "timedatectl set-ntp true, there or here")


def doors(stage: Stage, host: Host) -> tuple[int, ...]:
    """Ports by which users come in, as far as the stage knows."""
    if not application.is_door(stage, host):
        return ()
    return (80, 443) if stage.is_encrypted else (80,)


def door(address: str, port: int, why: str) -> Finding:
    """`why` a connection from the operator's machine fails; "" when it does not."""
    if not why:
        return ok("door", f"{address} answers you at port {port}")
    unknown = "Name or service" in why or "nodename" in why or "No address" in why
    hint = f"its DNS record: dig {address}" if unknown else "systemctl status nginx; what lies between shuts the port?"
    return look("door", f"{address} does not answer you at port {port} ({why})", hint)
