"""Figures and names as people read them: every reporter says them the same way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from .safe import clean as clean


def seconds(value: float) -> str:
    """0.04s, 12.3s, 2m 05s."""
    if value < 10:
        return f"{value:.2f}s"
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}m {rest:02d}s"


def ago(then: datetime | None, now: datetime) -> str:
    """5 min ago, 2 h ago, 3 d ago; the date from two weeks on; "" for an unknown time."""
    if then is None:
        return ""
    passed = (now - then).total_seconds()
    if passed < 60:
        return "just now"
    for unit, length, limit in (("min", 60, 3600), ("h", 3600, 48 * 3600), ("d", 86400, 14 * 86400)):
        if passed < limit:
            return f"{int(passed // length)} {unit} ago"
    return then.astimezone(UTC).strftime("%Y-%m-%d")


def moment(at: str, release: str = "") -> datetime | None:
    """The time an ISO 8601 text says, or the one in a release id; without a zone it is UTC."""
    for text, form in ((at, ""), (release[:15], "%Y%m%d-%H%M%S")):
        try:
            found = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def size(count: int) -> str:
    """Bytes as 512 B, 49 MB, 1.2 GB (decimal units); "" below 0, which means unknown."""
    if count < 0:
        return ""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 10 else f"{value:.0f} {unit}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def bold(text: str, on: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if on else text


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], strong: bool = False) -> list[str]:
    """Aligned lines under a header; a column nobody filled is left out."""
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    table = [[header[index] for index in used], *([clean(row[index]) for index in used] for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(used))]
    first, *rest = (_padded(line, widths) for line in table)
    return [bold(first, strong), *rest]


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
