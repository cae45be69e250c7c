"""What is said to be reachable must be: a gap that nobody sees is found out on the worst of days."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.model.archive import Archive
from tasks.model.moment import LATEST, Moment
from tasks.remote import archive
from tasks.report import archive as page

PROGRAM = Path(__file__).parent.parent / "templates" / "provision" / "pgbackrest.py"
START = datetime(2026, 11, 20, 2, 30, tzinfo=UTC)
ARCHIVES = [{"id": f"15-{number}", "database": {"id": number}} for number in (1, 2)]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pgbackrest", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pgbackrest", module)
    spec.loader.exec_module(module)
    return module


def segment(number: int) -> str:
    return f"{1:08X}{number // 256:08X}{number % 256:08X}"


def archived(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, segments: list[int], *backups: tuple[int, str]
) -> Any:
    """One segment a minute; each backup takes the one of its number, and the one after it."""
    info = [
        {
            "label": f"20261120-{number:06}{kind}",
            "archive": {"start": segment(number), "stop": segment(number + 1)},
            "timestamp": {"stop": int(at(number + 1).timestamp())},
            "info": {"size": 1000},
            "error": False,
            "database": {"id": 1},
        }
        for number, kind in backups
    ]
    files = {
        f"{segment(one)[:16]}/{segment(one)}-{'a' * 40}.zst": {"type": "file", "time": int(at(one + 1).timestamp())}
        for one in segments
    }
    files |= {
        ".": {"type": "path"},
        "0000000100000000": {"type": "path"},
        "00000002.history": {"type": "file", "time": 0},
    }
    answers = {"backup": {}, "info": [{"archive": ARCHIVES[:1], "backup": info, "db": [{"id": 1}]}], "repo-ls": files}
    monkeypatch.setattr(program, "pgbackrest", lambda command, *words: json.dumps(answers[command]))
    return program.reaches({})


def at(number: int) -> datetime:
    return START + timedelta(minutes=number)


def test_a_gap_is_jumped_over(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments 260 to 262 were dropped: what is between them and the next backup is lost, across 255 and 256 too."""
    segments = [one for one in range(250, 300) if not 260 <= one <= 262]
    found = archived(program, monkeypatch, segments, (251, "F"), (256, "I"), (270, "F"))
    first, second = program.spans(found)
    second_after = timedelta(seconds=1)
    assert (first.start, first.end, first.is_open) == (at(252) + second_after, at(260), False)
    assert (second.start, second.is_open) == (at(271) + second_after, True)
    assert [one.has(at(265)) for one in found] == [False, False, False]
    assert [one.has(at(258)) for one in found] == [True, True, False]
    assert [one.has(at(500)) for one in found] == [False, False, True]


def test_a_rebuilt_server_makes_backups_of_the_lost_one_look_open(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segments have the same numbers, and are of another cluster: none of them follows the lost one's backup."""
    archived(program, monkeypatch, [1, 2, 3], (1, "F"))
    asked = program.pgbackrest
    newer = {f"{segment(one)}-{'b' * 40}.zst": {"time": int(at(90 + one).timestamp())} for one in range(1, 9)}

    def answer(command: str, *words: str) -> str:
        if words[-1].endswith("15-2"):
            return json.dumps(newer)
        told = json.loads(asked(command, *words))
        if command == "info":
            told[0] |= {"archive": ARCHIVES, "db": [{"id": 1}, {"id": 2}]}
        return json.dumps(told)

    monkeypatch.setattr(program, "pgbackrest", answer)
    (lost,) = program.reaches({})
    assert (lost.end, lost.is_open, lost.cluster) == (at(4), False, 1)
    monkeypatch.setattr(program, "asked", dict)
    monkeypatch.setattr(program, "datetime", type("Clock", (datetime,), {"now": classmethod(lambda *_: at(95))}))
    assert program.backup("02:30") == "taken: full", "an incremental one of a lost cluster"


def test_a_backup_of_which_a_segment_is_missing_counts(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archived(program, monkeypatch, [3, 5, 6], (3, "F")) == []
    assert archived(program, monkeypatch, [], (3, "F")) == []


@pytest.mark.parametrize(
    ("segments", "backups", "taken"),
    [
        ([], [], "full"),
        (range(10), [(1, "F")], "full"),
        (range(4 * 1440), [(5, "F"), (4 * 1440 - 10, "I")], "none is due"),
        (range(4 * 1440), [(5, "F"), (1440, "I")], "incr"),
        ([*range(1450), *range(1500, 4 * 1440)], [(5, "F"), (1440, "I")], "full"),
    ],
    ids=["none yet", "a full one of ten days ago", "not due", "yesterday's", "a gap"],
)
def test_a_backup_is_missed_or_taken_twice(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, segments: Any, backups: Any, taken: str
) -> None:
    archived(program, monkeypatch, list(segments), *backups)
    answers, called = program.pgbackrest, []
    now = START + timedelta(minutes=4 * 1440) if len(backups) != 1 else START + timedelta(days=10)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return now

    def record(command: str, *words: str) -> str:
        called.extend(words if command == "backup" else ())
        return "" if command == "backup" else str(answers(command))

    monkeypatch.setattr(program, "datetime", Clock)
    monkeypatch.setattr(program, "asked", dict)
    monkeypatch.setattr(program, "pgbackrest", record)
    said = program.backup(
        f"{now.astimezone():%H:%M}" if taken == "incr" else f"{(now - timedelta(minutes=30)).astimezone():%H:%M}"
    )
    assert said.endswith(taken)
    assert called == ([] if taken == "none is due" else [f"--type={taken}"])


def test_nobody_hears_of_an_archive_that_fails_until_it_is_full(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = {"last": at(1).isoformat(), "failed_at": at(2).isoformat(), "waiting": 3}
    monkeypatch.setattr(program, "asked", lambda: live)
    with pytest.raises(program.Refused, match="archiving fails"):
        program.backup("02:30")
    archived(program, monkeypatch, [], (0, "F"))
    monkeypatch.setattr(program, "asked", lambda: live | {"last": at(3).isoformat()})
    assert program.backup("02:30").endswith("full")


def test_a_full_disk_is_found_out_late(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "PLACE", tmp_path)
    reach = program.Reach("20261120-000001F", 1 << 60, START, START, 1, True)
    with pytest.raises(program.Refused, match="bytes free, and the cluster beside needs"):
        program.restore(tmp_path / "pos", START, reach)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (
            "LOG:  last completed transaction was at log time 2026-11-20 14:34:58+00\n"
            "FATAL:  recovery ended before configured recovery target was reached\n",
            "the archive does not go so far; it ends at 2026-11-20 14:34:58+00",
        ),
        ('FATAL:  could not set permissions on directory "/x": Read-only file system\n', "a tablespace was made"),
        ("FATAL:  out of memory\n", "does not start: out of memory"),
        ("", "it said nothing"),
    ],
)
def test_a_cluster_that_does_not_come_up_says_nothing(program: ModuleType, log: str, says: str) -> None:
    assert says in program.reason(log)[0]


def test_the_name_of_a_moment_is_another_there(program: ModuleType) -> None:
    for moment in (START, START.replace(microsecond=70)):
        assert archive.name(moment) == program.name(moment)
        (call,) = archive.take(Moment(moment, "then")).calls
        assert datetime.strptime(str(call[1]), "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC) == moment
    assert archive.take(Moment(START, LATEST)).calls == (("take_moment", "latest"),)


def told(*spans: tuple[int, int, bool], **more: object) -> Archive:
    said = [
        {"start": at(one).isoformat(), "end": at(other).isoformat(), "open": is_open} for one, other, is_open in spans
    ]
    facts = {"spans": said, "last": at(99).isoformat(), "failed_at": None, "waiting": 0, "leftover": False}
    return Archive.from_json(json.dumps(facts | more))


def test_a_moment_between_two_spans_is_promised() -> None:
    found = told((0, 10, False), (20, 30, True))
    assert [found.reaches(at(one)) for one in (-1, 0, 10, 11, 19, 20, 99)] == [
        False,
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert found.reaches_now
    assert not told((0, 10, False)).reaches_now


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"error": "no key"}', '{"spans": [{}]}', '{"spans": 3}'])
def test_an_archive_that_does_not_answer_is_taken_for_a_good_one(text: str) -> None:
    found = Archive.from_json(text)
    assert found.error
    assert not found.reaches(START)
    assert "cannot be read" in page.to_text(found, START)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (told((0, 10, False), (20, 30, True)), "a gap in the archive: nothing from"),
        (told((0, 10, False)), "a gap in the archive: nothing since"),
        (told((0, 10, True), failed_at=at(99).isoformat(), waiting=3), "archiving failed 60 s ago, 3 segments wait"),
        (told((0, 10, True), leftover=True), "the next restore-db removes it"),
        (told(), "one can go back to nothing yet"),
    ],
)
def test_what_is_wrong_with_an_archive_is_not_said(found: Archive, says: str) -> None:
    assert says in page.to_text(found, at(100))


def test_a_quiet_archive_is_complained_about() -> None:
    """Nothing was written for an hour, so nothing had to be archived."""
    assert "look at" not in page.to_text(told((0, 10, True)), at(160))
