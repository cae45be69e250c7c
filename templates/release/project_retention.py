"""Which backups stay, and why: one pure policy, which never lets the newest or the newest proven one go."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Callable


def decide(names: list, proven: list, daily: int, weekly: int, monthly: int, now: str = "") -> dict:
    """Name -> why it stays. Names begin with their moment in UTC, as 20261122-023000; others stay untouched.

    `now` is such a moment. What is dated later was taken while a clock was wrong: it stays, and stands for no day, or
    a week of wrong dates would push out what is taken from now on.
    """
    dated = sorted((name for name in names if moment(name) and not is_later(name, now)), reverse=True)
    kept = {name: "not ours to remove" for name in names if not moment(name)}
    kept.update((name, "dated later than now") for name in names if is_later(name, now))
    for name in dated[:1]:
        kept[name] = "the newest"
    for name in [one for one in dated if one in proven][:1]:
        kept.setdefault(name, "the newest that was proven")
    for name in dated:
        if moment(dated[0]) - moment(name) < timedelta(days=1):
            kept.setdefault(name, "within a day of the newest")
    rules = (("daily", daily, "%Y-%m-%d"), ("weekly", weekly, "week %G-%V"), ("monthly", monthly, "%Y-%m"))
    for word, count, form in rules:
        for name, period in newest_of_each(dated, lambda name, form=form: f"{moment(name):{form}}")[:count]:
            kept.setdefault(name, f"{word}: {period}")
    return kept


def goes_next(names: list, proven: list, daily: int, weekly: int, monthly: int, now: str) -> list:
    """What is there and will not be any more after the backup of a day later than `now`."""
    later = f"{moment(now) + timedelta(days=1):%Y%m%d-%H%M%S}"
    stays = decide([*names, later], proven, daily, weekly, monthly, later)
    return sorted(name for name in names if name not in stays)


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
