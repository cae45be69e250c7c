"""Old backups go, by one policy: it must never take the one that is needed."""

from __future__ import annotations

import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "templates" / "release"))

from project_retention import decide, goes_next, moment

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
    """By hand, twice within two days: both stay."""
    assert len(decide(names(0, 0.02, 0.1, 1.9, 2.1), [], daily=1, weekly=0, monthly=0)) == 4


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


STEPS = st.tuples(st.floats(-40, 60), st.booleans())
"""Days by which a clock goes on, or is set back, until the next backup; and whether a drill proves that one."""


@given(st.lists(STEPS, max_size=60))
def test_a_wrong_clock_takes_what_is_needed(steps: list[tuple[float, bool]]) -> None:
    """After each backup: itself stays, what was proven last by the clock of now stays, and something proven stays."""
    clock = START
    there: list[str] = []
    proven: list[str] = []
    for days, proves in steps:
        clock = max(clock + timedelta(days=days), datetime(2020, 1, 1))
        taken = free(f"{clock:%Y%m%d-%H%M%S}", there)
        kept = decide([*there, taken], proven, daily=2, weekly=1, monthly=1, now=taken)
        assert taken in kept, "what was just taken went"
        known = [one for one in proven if moment(one) <= moment(taken)]
        assert not known or max(known) in kept
        assert not proven or set(proven) & set(kept), "nothing that was proven is left"
        there, proven = list(kept), [one for one in proven if one in kept] + ([taken] if proves else [])


def free(name: str, there: list[str]) -> str:
    """As the program names a second one of the same second."""
    return next(one for one in (name, *(f"{name}-{n}" for n in range(2, 99))) if one not in there)


def test_a_week_of_a_clock_that_was_ahead_pushes_out_the_days_that_follow() -> None:
    """The one just taken went: those dated later stood for all the days to keep."""
    ahead = names(*(-day for day in range(900, 910)))
    now = names(0)[0]
    kept = decide([*ahead, *names(0, 1, 2)], [], daily=2, weekly=0, monthly=0, now=now)
    assert [kept.get(name) for name in names(0, 1, 2)] == ["the newest", "daily: 2026-11-21", None]
    assert {kept[name] for name in ahead} == {"dated later than now"}


def test_two_in_the_same_second_both_stay() -> None:
    first = names(0)[0]
    assert set(decide([first, f"{first}-2"], [], daily=1, weekly=0, monthly=0, now=first)) == {first, f"{first}-2"}


@given(st.lists(st.floats(0, 400), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 5), st.integers(0, 7))
def test_what_is_said_to_go_next_is_what_goes(ages: list[float], daily: int, weekly: int, monthly: int) -> None:
    limits = {"daily": daily, "weekly": weekly, "monthly": monthly}
    now = names(0)[0]
    there = list(decide([*names(*ages), now], [], **limits, now=now))
    tomorrow = names(-1)[0]
    stays = decide([*there, tomorrow], [], **limits, now=tomorrow)
    assert goes_next(there, [], **limits, now=now) == sorted(set(there) - set(stays))


def test_days_are_those_of_backups_whose_date_fits_their_number() -> None:
    """One taken while the clock was ahead stands for no day, and is no newer than what was taken after it."""
    there = names(4, 3, -900, 2, 1)
    numbers = {name: number for number, name in enumerate(there, 1)}
    kept = decide(there, [], daily=3, weekly=0, monthly=0, numbers=numbers)
    ahead = there[2]
    assert kept.pop(ahead) == "its date and its number disagree"
    assert list(kept.values()) == ["the newest", "daily: 2026-11-20", "daily: 2026-11-19"]


def test_one_taken_while_the_clock_was_behind_stays_and_harms_no_other() -> None:
    there = names(4, 3, 900, 2, 1)
    numbers = {name: number for number, name in enumerate(there, 1)}
    kept = decide(there, [], daily=4, weekly=0, monthly=0, numbers=numbers)
    assert kept[there[2]] == "its date and its number disagree"
    assert set(kept) == set(there)


@given(st.lists(st.floats(0, 800), max_size=30), st.randoms())
def test_the_one_taken_last_never_goes(ages: list[float], chance: random.Random) -> None:
    there = sorted(set(names(*ages)))
    chance.shuffle(there)
    numbers = {name: number for number, name in enumerate(there, 1)}
    kept = decide(there, [], daily=1, weekly=0, monthly=0, numbers=numbers)
    assert not there or there[-1] in kept
