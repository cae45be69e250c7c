"""Old backups go, by one policy: it must never take the one that is needed."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "templates" / "release"))

from project_retention import decide

START = datetime(2026, 11, 22, 2, 30)


def names(*days_ago: float) -> list[str]:
    return [f"{START - timedelta(days=ago):%Y%m%d-%H%M%S}" for ago in days_ago]


def test_a_week_of_days_a_month_of_weeks_half_a_year() -> None:
    kept = decide(names(*range(365)), [], daily=7, weekly=4, monthly=6)
    assert len(kept) == 7 + 3 + 5, "a day's backup also stands for its week and its month"
    assert kept[names(0)[0]] == "the newest"
    assert kept[names(1)[0]] == "daily: 2026-11-21"
    assert sum(why.startswith("monthly") for why in kept.values()) == 5


def test_one_taken_before_a_risky_hour_is_gone_after_it() -> None:
    """By hand, twice within a day: both stay."""
    assert len(decide(names(0, 0.02, 0.1, 0.9, 1.1), [], daily=1, weekly=0, monthly=0)) == 4


def test_gaps_do_not_cost_a_backup() -> None:
    """A server that was off for a month still has the seven newest days on which there was one."""
    kept = decide(names(40, 41, 42, 43, 44, 45, 46, 47), [], daily=7, weekly=0, monthly=0)
    assert list(kept) == names(40, 41, 42, 43, 44, 45, 46)


@given(st.lists(st.floats(0, 800), max_size=40), st.data())
def test_the_newest_or_the_newest_proven_one_goes(ages: list[float], data: st.DataObject) -> None:
    found = sorted(set(names(*ages)))
    proven = data.draw(st.lists(st.sampled_from(found), max_size=5)) if found else []
    kept = decide([*found, "by-hand"], proven, daily=1, weekly=0, monthly=0)
    assert "by-hand" in kept
    assert not found or found[-1] in kept
    assert not proven or max(proven) in kept
    again = decide(list(kept), proven, daily=1, weekly=0, monthly=0)
    assert set(again) == set(kept), "a second run takes more"
