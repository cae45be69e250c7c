"""What a person means by a date: one moment, in words that leave no doubt, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Protocol, TypeVar

from .errors import UsageError

LATEST = "the latest"
FORMS = 'as 2026-11-20, "2026-11-20 14:35" (your time zone), yesterday, latest or -2h'
AGO = re.compile(r"-(\d{1,5})(m|h|d)")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Dated(Protocol):
    @property
    def taken(self) -> datetime: ...


One = TypeVar("One", bound=Dated)


@dataclass(frozen=True)
class Moment:
    at: datetime
    """With its time zone. What was there at this moment or before it is wanted."""
    said: str


def moment(text: str, now: datetime) -> Moment:
    """`now` is aware; a time without a zone is meant in its zone, as it was then. A day alone means its end, or now if
    it is today.

    UsageError for what is no date, is in the future, or exists twice or never because clocks were changed.
    """
    word = text.strip().lower()
    if word in ("latest", "now", ""):
        return Moment(_fixed(now), LATEST)
    if ago := AGO.fullmatch(word):
        passed = timedelta(**{UNITS[ago[2]]: int(ago[1])})  # real time, whatever clocks on walls did meanwhile
        return _past((_utc(now) - passed).astimezone(now.tzinfo), now)
    if word in ("today", "yesterday"):
        return _past(now, now) if word == "today" else _past(_end_of(now - timedelta(days=1)), now)
    try:
        read = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is not a date", FORMS) from None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}|\d{8}", text.strip()):
        end = _end_of(read.replace(tzinfo=now.tzinfo))
        return _past(now if read.date() == now.date() else end, now)
    return _past(read if read.tzinfo else _in_zone(read, now.tzinfo, text), now)


def at_or_before(found: Iterable[One], wanted: Moment) -> One | None:
    """The newest that was taken at the moment or before it; the latest is the newest there is, whatever clocks say."""
    before = (one for one in found if wanted.said == LATEST or one.taken <= wanted.at)
    return max(before, key=lambda one: one.taken, default=None)


def local(at: datetime) -> str:
    """In the time zone of this machine, which it names."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def age(passed: timedelta) -> str:
    """50 s, 40 min, 5 h, 3 d: never rounded up, and two of a unit at least, but of seconds."""
    seconds = max(0, int(passed.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _end_of(day: datetime) -> datetime:
    """Where clocks are changed at midnight, the last hour of that name; before a gap, its beginning."""
    return day.replace(hour=23, minute=59, second=59, microsecond=999_999, fold=1)


def _in_zone(read: datetime, zone: tzinfo | None, text: str) -> datetime:
    early, late = (read.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if early.utcoffset() == late.utcoffset():
        return early
    one, other = (f"{_utc(at):%Y-%m-%d %H:%M} UTC" for at in (early, late))
    first, second = (_fixed(at).isoformat(timespec="minutes") for at in (early, late))
    if _utc(early) < _utc(late):
        raise UsageError(
            f"{text!r} exists twice: clocks were put back then, and it is {one} or {other}",
            f"say which, with its offset: {first} or {second}",
        )
    raise UsageError(
        f"{text!r} does not exist: clocks were put forward over it",
        f"say it with its offset: {second} is {other}, {first} is {one}",
    )


def _past(at: datetime, now: datetime) -> Moment:
    if _utc(at) > _utc(now):
        raise UsageError(f"{at:%Y-%m-%d %H:%M %Z} is in the future", FORMS)
    return Moment(_fixed(at), f"{at:%Y-%m-%d %H:%M:%S %Z}")


def _utc(at: datetime) -> datetime:
    """Comparable: two times in one zone are compared by what the wall clock says, which is not their order."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return at.replace(tzinfo=UTC)  # an hour from the end of all calendars


def _fixed(at: datetime) -> datetime:
    """The same instant, with its offset instead of the zone."""
    return at.replace(tzinfo=timezone(at.utcoffset() or timedelta(), at.tzname() or "UTC"), fold=0)
