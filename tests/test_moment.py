"""A date that means another day than its writer thought restores the wrong database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from tasks._operator import wanted
from tasks._timezone import MachineTimezone
from tasks.model.backup import Saved
from tasks.model.errors import UsageError
from tasks.model.moment import age, at_or_before, moment

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 15, 30, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("latest", NOW),
        ("2026-11-20", datetime(2026, 11, 20, 23, 59, 59, 999_999, tzinfo=BERLIN)),
        ("2026-11-20 14:35", datetime(2026, 11, 20, 14, 35, tzinfo=BERLIN)),
        ("2026-11-20T14:35:12", datetime(2026, 11, 20, 14, 35, 12, tzinfo=BERLIN)),
        ("2026-11-20 14:35+00:00", datetime(2026, 11, 20, 14, 35, tzinfo=UTC)),
        ("2026-11-20T14:35Z", datetime(2026, 11, 20, 14, 35, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 21, 23, 59, 59, 999_999, tzinfo=BERLIN)),
        ("today", NOW),
        ("2026-11-22", NOW),
        ("-2h", NOW - timedelta(hours=2)),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-3d", NOW - timedelta(days=3)),
    ],
)
def test_a_date_means_another_moment(said: str, meant: datetime) -> None:
    assert moment(said, NOW).at == meant


@pytest.mark.parametrize("said", ["2026-11-23", "2026-11-22 15:31", "2027-01-01T00:00Z"])
def test_the_future_is_restored(said: str) -> None:
    with pytest.raises(UsageError, match="future"):
        moment(said, NOW)


def test_an_hour_that_exists_twice_is_refused_with_both() -> None:
    """Clocks went back on 25 October."""
    with pytest.raises(UsageError, match=r"exists twice.*2026-10-25 00:30 UTC or 2026-10-25 01:30 UTC") as refused:
        moment("2026-10-25 02:30", NOW)
    for said in ("2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"):
        assert said in refused.value.hint
        moment(said, NOW)


def test_an_hour_that_never_was_is_refused() -> None:
    """Clocks went forward on 29 March."""
    with pytest.raises(UsageError, match="does not exist") as refused:
        moment("2026-03-29 02:30", NOW)
    assert "2026-03-29T02:30+01:00 is 2026-03-29 01:30 UTC" in refused.value.hint
    assert moment("2026-03-29T02:30+01:00", NOW).at.utcoffset() == timedelta(hours=1)


def test_hours_ago_are_hours_though_clocks_were_put_back_meanwhile() -> None:
    morning = datetime(2026, 10, 25, 4, 0, tzinfo=BERLIN)
    assert moment("-2h", morning).at == datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert moment("2026-10-25T02:40+02:00", second).at == datetime(2026, 10, 25, 0, 40, tzinfo=UTC)


DESKS = [
    ("Europe/Berlin", "2026-07-01 14:35", "2026-07-01T12:35"),
    ("Europe/Berlin", "2026-02-01 14:35", "2026-02-01T13:35"),
    ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-07-01 14:35", "2026-07-01T12:35"),
    ("Australia/Lord_Howe", "2026-07-01 14:35", "2026-07-01T04:05"),
    ("Europe/Dublin", "2026-07-01", "2026-07-01T22:59"),
    ("America/Scoresbysund", "2026-03-28", "2026-03-29T00:59"),
    ("Atlantic/Azores", "2026-10-25 00:30", "twice: clocks were put back then, and it is 2026-10-25 00:30 UTC or"),
    ("Europe/Berlin", "2026-10-25 02:30", "twice: clocks were put back then, and it is 2026-10-25 00:30 UTC or"),
    ("Europe/Berlin", "2026-03-29 02:30", "does not exist"),
    ("", "2026-07-01 14:35", "2026-07-01T14:35"),
    ("Europe/Berlin", "0001-01-01", "0001-01-01T23:06"),
]
TODAYS = [datetime(2026, 11, 28, 12, tzinfo=UTC), datetime(2027, 7, 28, 12, tzinfo=UTC)]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def be_in(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield be_in
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("today", TODAYS, ids=["in winter", "in summer"])
@pytest.mark.parametrize(("zone", "said", "meant"), DESKS, ids=[f"{zone} {said}" for zone, said, _ in DESKS])
def test_a_time_typed_in_winter_means_what_clocks_said_in_summer(
    desk: Callable[[str], None], mocker: MockerFixture, zone: str, said: str, meant: str, today: datetime
) -> None:
    desk(zone)
    mocker.patch("tasks._operator.now", return_value=today)
    if meant[0].isdigit():
        found = wanted("restore-db", said, undo=False)
        assert found
        assert found.at.astimezone(UTC).isoformat().startswith(meant)
    else:
        with pytest.raises(UsageError, match=meant):
            wanted("restore-db", said, undo=False)


ZONES = st.sampled_from(["Europe/Berlin", "Atlantic/Azores"])


@given(st.datetimes(datetime(1990, 1, 1), datetime(2030, 12, 31)), ZONES)
def test_the_machines_zone_is_the_one_it_is_said_to_be(at: datetime, zone: str) -> None:
    os.environ["TZ"], kept = zone, os.environ.get("TZ")
    time.tzset()
    try:
        instant = at.replace(tzinfo=UTC)
        ours, right = instant.astimezone(MachineTimezone()), instant.astimezone(ZoneInfo(zone))
        assert (ours.isoformat(), ours.fold) == (right.isoformat(), right.fold)
        assert ours.astimezone(UTC) == instant
    finally:
        del os.environ["TZ"]
        if kept is not None:
            os.environ["TZ"] = kept
        time.tzset()


@given(st.text(max_size=20))
def test_words_that_are_no_date_end_in_a_traceback(said: str) -> None:
    with suppress(UsageError):
        assert moment(said, NOW).at <= NOW


def saved(taken: datetime) -> Saved:
    return Saved(f"{taken:%Y%m%d-%H%M%S}", "backup", taken, "", 1, 1)


@given(st.lists(st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)), max_size=20))
def test_a_backup_that_is_newer_than_the_date_is_taken(moments: list[datetime]) -> None:
    backups = [saved(one.replace(tzinfo=UTC)) for one in moments]
    wanted = moment("2026-06-01T12:00Z", NOW)
    found = at_or_before(backups, wanted)
    before = [one.taken for one in backups if one.taken <= wanted.at]
    assert (found.taken if found else None) == (max(before) if before else None)


@pytest.mark.parametrize("task", ["restore-db", "restore-media", "restore-config"])
def test_a_date_or_the_way_back_but_not_both_and_the_hint_names_the_task_that_was_typed(task: str) -> None:
    for date, undo in (("", False), ("latest", True)):
        with pytest.raises(UsageError) as refused:
            wanted(task, date, undo=undo)
        assert refused.value.hint == f"fab {task} --date latest"


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        ({"minutes": -5}, "0 s"),
        ({"minutes": 1.9}, "114 s"),
        ({"minutes": 59.9}, "59 min"),
        ({"hours": 47.9}, "47 h"),
        ({"days": 13.9}, "13 d"),
    ],
)
def test_an_age_never_rounds_up(passed: dict[str, float], said: str) -> None:
    assert age(timedelta(**passed)) == said
