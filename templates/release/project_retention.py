"""Which backups stay, and why: one pure policy, which never lets the newest or the newest proven one go.

What is newer is known by the number of a backup, not by its name: that has a date in it, which a clock said that may
have been wrong.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Callable

NEVER_YET = timedelta(days=2)  # what is younger than this, beside the newest, never goes


def decide(
    names: list, proven: list, daily: int, weekly: int, monthly: int, now: str = "", numbers: dict | None = None
) -> dict:
    """Name -> why it stays. Names begin with their moment in UTC, as 20261122-023000; others stay untouched.

    `now` is such a moment, `numbers` has those of the backups that have one. What is dated later than now, or than one
    that was taken after it, was taken while a clock was wrong: it stays, and stands for no day, or a week of wrong
    dates would push out what is taken from now on.
    """
    ordered = in_order([name for name in names if moment(name)], numbers or {})
    later = [name for name in ordered if is_later(name, now)]
    wrong = misdated([(name, moment(name)) for name in ordered if name not in later])
    dated = [name for name in reversed(ordered) if name not in later and name not in wrong]
    kept = {name: "not ours to remove" for name in names if not moment(name)}
    kept.update((name, "dated later than now") for name in later)
    kept.update((name, "its date and its number disagree") for name in wrong)
    for name in ordered[-1:] + dated[:1]:
        kept.setdefault(name, "the newest")
    for name in [one for one in dated if one in proven][:1]:
        kept.setdefault(name, "the newest that was proven")
    rules = (("daily", daily, "%Y-%m-%d"), ("weekly", weekly, "week %G-%V"), ("monthly", monthly, "%Y-%m"))
    for word, count, form in rules:
        for name, period in newest_of_each(dated, lambda name, form=form: f"{moment(name):{form}}")[:count]:
            kept.setdefault(name, f"{word}: {period}")
    for name in dated:
        if moment(dated[0]) - moment(name) < NEVER_YET:
            kept.setdefault(name, "within two days of the newest")
    return kept


def goes_next(
    names: list, proven: list, daily: int, weekly: int, monthly: int, now: str, numbers: dict | None = None
) -> list:
    """What is there and will not be any more after the backup of a day later than `now`."""
    later = f"{moment(now) + timedelta(days=1):%Y%m%d-%H%M%S}"
    known = {**(numbers or {}), later: 1 + max((numbers or {"": 0}).values(), default=0)}
    stays = decide([*names, later], proven, daily, weekly, monthly, later, known)
    return sorted(name for name in names if name not in stays)


def in_order(names: list, numbers: dict) -> list:
    """Oldest first. Those without a number are of older programs, and by their names."""
    return sorted(names, key=lambda name: (numbers.get(name, 0), name))


def misdated(ordered: list) -> set:
    """Of (name, moment) in the order in which they were taken: the fewest without which no moment goes back.

    Where two ways are as long, what was taken later is believed: a clock that is ahead is put right one day.
    """
    longest: list = []  # (length, index of the next one) of the best way from each to the newest
    for at in range(len(ordered) - 1, -1, -1):
        after = [(longest[len(ordered) - 1 - one][0], one) for one in range(at + 1, len(ordered))
                 if ordered[one][1] >= ordered[at][1]]  # fmt: skip
        length, following = max(after, default=(0, None))
        longest.append((length + 1, following))
    ways = longest[::-1]
    at = max(range(len(ways)), key=lambda one: (ways[one][0], one), default=None)
    fitting = set()
    while at is not None:
        fitting.add(ordered[at][0])
        at = ways[at][1]
    return {name for name, _ in ordered} - fitting


def newest_of_each(names: list, period: Callable) -> list:
    """(name, period), newest first, of the newest name in each period that has one."""
    seen: dict = {}
    for name in names:
        seen.setdefault(period(name), name)
    return [(name, found) for found, name in seen.items()]


def is_later(name: str, now: str) -> bool:
    return bool(now and moment(name) and moment(name) > moment(now))


def moment(name: str) -> datetime | None:
    try:
        return datetime.strptime(name[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return None
