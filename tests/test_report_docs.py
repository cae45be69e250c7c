"""A reference page that says something else than the program is worse than none."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tasks.model import errors
from tasks.model.event import Event, PlanFinished
from tasks.model.machine import Drift, Thing
from tasks.model.shell import Script
from tasks.report import drift, outcome, pages, paper, webhook
from tasks.report.jsonl import Jsonl, name

from .test_report_stories import STORIES, deploy

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def documented() -> dict[str, list[tuple[str, str]]]:
    """Per heading of json.md: its (field, type) rows."""
    sections = re.split(r"^#+ ", (REFERENCE / "json.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        section.partition("\n")[0]: re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", section, flags=re.MULTILINE)
        for section in sections
    }


def written() -> Iterator[dict[str, object]]:
    for events in STORIES.values():
        stream = io.StringIO()
        reporter = Jsonl(stream)
        for event in events:
            reporter(event)
        yield from map(json.loads, stream.getvalue().splitlines())


KINDS = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "list of strings": list,
    "list of objects": list,
}


def agrees(value: dict[str, object], heading: str, also: tuple[str, ...] = ()) -> None:
    fields = documented()[heading]
    assert sorted([*also, *(field for field, _ in fields)]) == sorted(value)
    for field, kind in fields:
        assert isinstance(value[field], KINDS[kind]), (heading, field)


@pytest.mark.parametrize("event", get_args(Event), ids=lambda event: event.__name__)
def test_every_event_and_field_is_documented(event: type) -> None:
    told = event.__dataclass_fields__.keys()
    fields = [field for field, _ in documented()[name(event.__new__(event))]]
    also = ["result", "meaning"] if event is PlanFinished else []
    assert fields == [*told, *also]


def test_what_is_written_is_what_is_documented() -> None:
    seen = set()
    for line in written():
        heading = str(line["event"])
        agrees(line, heading, also=("event", "at"))
        seen.add(heading)
    assert seen == {name(event.__new__(event)) for event in get_args(Event)}


def test_a_plan_is_documented_to_its_last_field() -> None:
    plan = paper.to_json(deploy("web1", "web2"))
    agrees(plan, "A plan")
    for phase in plan["phases"]:
        agrees(phase, "A phase")
        for step in phase["steps"]:
            agrees(step, "A step")
    assert json.loads(json.dumps(plan)) == plan


def test_the_webhook_is_documented() -> None:
    finished = STORIES["put-back"][-1]
    assert isinstance(finished, PlanFinished)
    agrees(webhook.message(finished), "The webhook")


def test_the_page_of_exit_codes_says_what_the_program_does() -> None:
    page = REFERENCE / "exit-codes.md"
    if os.environ.get("UPDATE_GOLDEN"):
        page.write_text(pages.exit_codes(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == pages.exit_codes(), "UPDATE_GOLDEN=1 writes it"


def test_every_exit_code_has_a_word_and_an_advice() -> None:
    assert errors.EXIT_CODES.keys() == outcome.RESULTS.keys() == pages.ADVICE.keys()
    assert len(set(outcome.RESULTS.values())) == len(outcome.RESULTS)


def test_a_thing_that_differs_on_a_server_is_documented() -> None:
    thing = Thing("file /etc/x", ("look_file", "/etc/x"), "root:root 644\na\n", Script())
    (told,) = drift.to_json({"web1": (Drift("nginx", thing, "root:root 644\nb"),)})
    agrees(told, "A thing that differs")
    assert told["diff"][-2:] == ["-b", "+a"]
