"""The time zone of this machine (TZ, or /etc/localtime) as the C library knows it, asked anew for every instant."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo


class MachineTimezone(tzinfo):
    """`datetime.now().astimezone()` has the offset of today, which is another one than half a year ago.

    ZoneInfo would need the zone's name, which neither a TZ such as `CET-1CEST,M3.5.0,M10.5.0/3` nor /etc/localtime has.
    """

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return _fixed(dt).utcoffset() or timedelta()

    def tzname(self, dt: datetime | None) -> str:
        return _fixed(dt).tzname() or ""

    def dst(self, dt: datetime | None) -> None:  # noqa: ARG002 - nobody asks
        return None

    def fromutc(self, dt: datetime) -> datetime:
        """`dt` says UTC and names this zone. The second of two hours of one name gets fold=1."""
        instant = dt.replace(tzinfo=UTC)
        wall = instant.astimezone().replace(tzinfo=None)
        fold = int(wall - dt.replace(tzinfo=None) != self.utcoffset(wall))
        return wall.replace(tzinfo=self, fold=fold)


def _fixed(at: datetime | None) -> datetime:
    """The same wall clock with the offset of that instant; in years no clock knows, the standard one."""
    if at is None:
        return datetime.now(UTC).astimezone()
    naive = at.replace(tzinfo=None)
    try:
        return naive.astimezone()
    except (OverflowError, ValueError, OSError):
        return naive.replace(tzinfo=timezone(timedelta(seconds=-time.timezone)))
