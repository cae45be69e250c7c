"""`fab releases`, `fab status`, `fab history`: what people decide on at night must be right and plain to see."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.model.facts import HostFacts
from tasks.model.release import JournalEntry, Release
from tasks.report import tables, words

from .test_report_stories import NEW, OLD, golden

NOW = datetime(2026, 11, 22, 12, 20, tzinfo=UTC)
FAILED = "20261121-160000-2222222"
RELEASES = (
    Release(OLD, "1" * 40, "v1.4.0", by="grace@laptop", at="2026-11-20T09:00:00Z", state="retired"),
    Release(FAILED, "2" * 40, "main", by="ada@desk", at="2026-11-21T16:00:00Z", state="bad"),
    Release(NEW, "9f3c2ab" + "0" * 33, "main", by="ada@desk", at="2026-11-22T10:15:30Z", state="live"),
)
JOURNAL = (
    JournalEntry(1, "live", OLD, at="2026-11-20T09:01:00Z", by="grace@laptop"),
    JournalEntry(2, "bad", FAILED, OLD, at="2026-11-21T16:01:00Z", by="ada@desk", note="answered 500"),
    JournalEntry(3, "live", NEW, OLD, at="2026-11-22T10:16:00Z", by="ada@desk"),
)
WELL = HostFacts(
    "web1",
    current=NEW,
    releases=RELEASES,
    journal=JOURNAL,
    units={f"web@{NEW}": "active", f"worker@{NEW}": "active", f"beat@{NEW}": "active"},
    disk_free=21_400_000_000,
    more={f"size {NEW}": "49000000", f"size {OLD}": "17200000"},
)
BEHIND = replace(
    WELL,
    host="web3",
    current=OLD,
    releases=(replace(RELEASES[0], state="live"), RELEASES[1], replace(RELEASES[2], state="ready")),
    journal=JOURNAL[:2],
    units={f"web@{OLD}": "active", f"worker@{OLD}": "failed"},
    lock="ada@desk, since 10:14, deploy 20261122-101530-9f3c2ab",
    freeze="stock-taking until Monday (grace)",
    leftovers=(f"staging/{NEW}",),
    problems=(("1.2 GB free, 2 GB wanted", "fab releases --prune"),),
    warm=(FAILED,),
    disk_free=1_200_000_000,
    maintenance=True,
)
FLEET = (WELL, replace(WELL, host="web2", journal=tuple(replace(one, seq=one.seq + 7) for one in JOURNAL)))
DRIFTED = (*FLEET, BEHIND)
BARE = HostFacts("new1")


@pytest.mark.parametrize(
    ("name", "facts"), [("one", (WELL,)), ("fleet", FLEET), ("drifted", DRIFTED), ("bare", (BARE,))]
)
def test_tables_read_as_they_did_when_a_person_last_looked(name: str, facts: tuple[HostFacts, ...]) -> None:
    pages = tables.releases(facts, NOW), tables.status(facts, NOW), tables.history(facts, NOW)
    golden(f"tables-{name}.txt", "\n--------\n\n".join(pages))


def test_hosts_that_agree_are_not_repeated() -> None:
    text = tables.releases(FLEET, NOW) + tables.history(FLEET, NOW)
    assert "web1" not in text
    assert tables.history(FLEET, NOW).count("answered 500") == 1


def test_a_host_that_serves_something_else_is_named_everywhere() -> None:
    for page in (tables.releases(DRIFTED, NOW), tables.status(DRIFTED, NOW)):
        assert f"the hosts differ: {NEW} on web1, web2; {OLD} on web3" in page
    assert tables.status_json(DRIFTED, NOW)["differ"] is True
    assert tables.status_json(FLEET, NOW)["differ"] is False


def test_a_directory_in_place_of_current_is_said_in_words() -> None:
    assert "a directory stands at current" in tables.status((HostFacts("old1", current="!directory"),), NOW)


def test_after_a_rollback_live_since_is_the_rollback_not_the_build() -> None:
    back = JournalEntry(4, "live", OLD, NEW, at="2026-11-22T12:15:00Z", by="grace@laptop")
    page = tables.status((replace(WELL, current=OLD, journal=(*JOURNAL, back)),), NOW)
    assert "5 min ago" in page
    assert "2 h ago" not in page


def test_history_shows_the_newest_first_and_stops_at_the_limit() -> None:
    lines = tables.history(FLEET, NOW, limit=2).splitlines()
    assert NEW in lines[1]
    assert FAILED in lines[2]
    assert len(lines) == 3


def test_going_there_and_back_is_two_lines_not_one() -> None:
    swaps = tuple(JournalEntry(seq, "live", (OLD, NEW)[seq % 2], by="ada") for seq in range(4))
    hosts = [HostFacts(host, journal=swaps) for host in ("web1", "web2")]
    rows = tables.history(hosts, NOW).splitlines()[1:]
    assert [row.split()[1] for row in rows] == [NEW, OLD, NEW, OLD]


def test_a_servers_text_cannot_steer_the_terminal_or_break_a_row() -> None:
    nasty = replace(WELL, freeze="\x1b[2Jgone\nroot", lock="\x1b]0;title\x07me")
    page = tables.status((nasty,), NOW)
    assert "\x1b" not in page
    assert r"frozen: \x1b[2Jgone root" in page
    assert r"locked: \x1b]0;title\x07me" in page


def test_bold_only_where_asked() -> None:
    assert "\x1b" not in tables.releases(DRIFTED, NOW)
    strong = tables.releases(DRIFTED, NOW, strong=True)
    assert strong.replace("\x1b[1m", "").replace("\x1b[0m", "") == tables.releases(DRIFTED, NOW)
    assert strong.startswith("\x1b[1m")


def test_json_twins_are_plain_values_with_the_same_facts() -> None:
    twins = tables.releases_json(DRIFTED), tables.status_json(DRIFTED, NOW), tables.history_json(DRIFTED, limit=2)
    releases, status, history = json.loads(json.dumps(twins))
    assert releases["hosts"]["web1"]["releases"][0]["id"] == NEW
    assert releases["hosts"]["web1"]["releases"][0]["size"] == 49_000_000
    assert status["hosts"]["web3"]["problems"] == [
        {"problem": "1.2 GB free, 2 GB wanted", "hint": "fab releases --prune"}
    ]
    assert status["hosts"]["web3"]["live"]["id"] == OLD
    assert [one["seq"] for one in history["hosts"]["web2"]] == [10, 9]


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=2, minutes=4), "2 h ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=13, hours=23), "13 d ago"),
        (timedelta(days=14), "2026-11-08"),
    ],
)
def test_ages_never_round_up(passed: timedelta, said: str) -> None:
    assert words.ago(NOW - passed, NOW) == said


@pytest.mark.parametrize(
    ("at", "id", "expected"),
    [
        ("2026-11-22T10:15:30Z", OLD, datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)),
        ("2026-11-22T11:15:30+01:00", "", datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)),
        ("", NEW, datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)),
        ("yesterday", "nothing", None),
    ],
)
def test_a_time_comes_from_the_record_or_else_the_name(at: str, id: str, expected: datetime | None) -> None:
    assert words.moment(at, id) == expected


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (-1, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (49_000_000, "49 MB"),
        (1_240_000_000, "1.2 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_are_short(count: int, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(("took", "said"), [(0.04, "0.04s"), (12.34, "12.3s"), (125, "2m 05s"), (3599.9, "60m 00s")])
def test_durations_are_short(took: float, said: str) -> None:
    assert words.seconds(took) == said
