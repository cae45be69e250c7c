"""A date that means another day than its writer thought restores the wrong database."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks._operator import wanted
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


@pytest.mark.parametrize("said", ["2026-10-25 02:30", "2026-03-29 02:30"])
def test_an_hour_that_exists_twice_or_never_is_guessed(said: str) -> None:
    """Clocks went back on 25 October and forward on 29 March."""
    with pytest.raises(UsageError, match="twice or not at all"):
        moment(said, NOW)
    assert moment(said + "+01:00", NOW).at.utcoffset() == timedelta(hours=1)


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
