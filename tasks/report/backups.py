"""The backups of a stage, as aligned text and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ..model.backup import Fate, KeptDatabase, LeftOut, Saved
from ..model.standing import Standing
from .words import ago, bold, clean, columns, seconds, size

LONGEST_STATEMENT = 160
"""Characters that fit a line among others."""

NO_FATES: Mapping[str, Fate] = {}


def to_text(
    saved: Sequence[Saved],
    kept: Sequence[KeptDatabase],
    now: datetime,
    strong: bool = False,
    standing: Standing | None = None,
    fates: Mapping[str, Fate] = NO_FATES,
) -> str:
    """Newest first, and below what somebody should look at."""
    header = ("backup", "kind", "taken", "size", "rows", "release", "proven", "kept as")
    rows = [
        (
            one.name,
            one.kind,
            ago(one.taken, now),
            size(one.size),
            f"{one.rows:,}",
            one.release,
            _proof(one, now),
            _fate(fates.get(one.name)),
        )
        for one in saved
    ]
    lines = columns(header, rows, strong) if rows else ["no backup yet: fab backup takes one"]
    notices = [f"{said}: {hint}" for said, hint in attention(standing, now)]
    notices += [
        f"{one.name} says it was taken {one.wrong_date}, which does not fit its number: a clock was wrong"
        for one in saved
        if one.wrong_date
    ]
    lines += [clean(one) for one in limits(saved[0])] if saved else []
    lines += kept_lines(kept, now)
    return "\n".join([*lines, *(f"{bold('look at', strong)}: {clean(one)}" for one in notices)]) + "\n"


def to_json(
    saved: Sequence[Saved],
    kept: Sequence[KeptDatabase],
    standing: Standing | None = None,
    fates: Mapping[str, Fate] = NO_FATES,
) -> dict[str, Any]:
    """docs/reference/json.md has every field."""
    listed = [
        {
            "name": one.name,
            "kind": one.kind,
            "taken_at": one.taken.isoformat(),
            "bytes": one.size,
            "rows": one.rows,
            "release": one.release,
            "server_version": one.server_version,
            "proven_at": one.proven or None,
            "proof_seconds": one.proof_seconds if one.proof_seconds >= 0 else None,
            "kept_as": fates[one.name].why if one.name in fates else "",
            "goes_next": one.name in fates and fates[one.name].goes_next,
            "sequence": one.sequence,
            "wrong_date": one.wrong_date or None,
            "remarks": list(one.remarks),
            "left_out": [asdict(item) for item in one.left_out],
            "untried": one.untried,
        }
        for one in saved
    ]
    units = standing.units if standing else {}
    return {
        "backups": listed,
        "timer": units.get("backup.timer", ""),
        "last_run": units.get("backup", ""),
        "kept": [
            {"name": one.name, "kept_at": one.at.isoformat(), "bytes": one.size, "is_way_back": one.is_way_back}
            for one in kept
        ],
    }


def standing_json(standing: Standing, now: datetime) -> dict[str, Any]:
    """What `fab status` says in a line."""
    moments = {"taken_at": standing.taken, "proven_at": standing.proven, "drilled_at": standing.drilled}
    said = {name: at.isoformat() if at else None for name, at in {**moments, "sent_at": standing.sent}.items()}
    aspects = [asdict(one) for one in standing.judged(now)]
    return {"newest": standing.newest, **said, "is_well": standing.is_well(now), "aspects": aspects}


def attention(standing: Standing | None, now: datetime) -> list[tuple[str, str]]:
    """(what, what to do)."""
    return [(one.said, one.hint) for one in standing.judged(now) if not one.is_well] if standing else []


def kept_lines(kept: Sequence[KeptDatabase], now: datetime) -> list[str]:
    """Each takes room on the database's disk until somebody drops it."""
    if not kept:
        return []
    back = "fab restore-db --undo --kept NAME swaps one back; " if any(one.is_way_back for one in kept) else ""
    lines = [f"kept beside the live database ({back}fab drop-kept NAME drops one):"]
    for one in kept:
        what = "live until" if one.is_way_back else "to look at, made"
        lines.append(f"  {clean(one.name)}  {what} {ago(one.at, now)}, {size(one.size)}")
    return lines


def limits(newest: Saved) -> list[str]:
    """What a restore of it would be without."""
    if newest.untried:
        return [f"whether all of {newest.name} can be restored was not tried: {newest.untried}"]
    lines = without(newest.left_out)
    return [f"a restore of {newest.name} would be without (missing privileges):", *lines] if lines else []


def without(left_out: Sequence[LeftOut], most: int = 10) -> list[str]:
    """A line each, with the statement by which postgres makes it afterwards where that fits."""
    roots = [one for one in left_out if not one.follows]
    lines = []
    for one in roots[:most]:
        reason = f" ({one.reason})" if one.reason else ""
        statement = " ".join(one.statement.split("\n"))
        afterwards = f"; afterwards, as postgres: {statement}" if 0 < len(statement) <= LONGEST_STATEMENT else ""
        lines.append(f"  {one.what}{reason}{afterwards}")
    if len(roots) > most:
        lines.append(f"  and {len(roots) - most} more: fab backups --json has all, with their statements")
    return lines


def named(left_out: Sequence[LeftOut], most: int = 3) -> str:
    """The same within a sentence."""
    roots = [one.what for one in left_out if not one.follows]
    return ", ".join(roots[:most]) + (f" and {len(roots) - most} more" if len(roots) > most else "")


def _proof(one: Saved, now: datetime) -> str:
    if not one.proven:
        return "not proven"
    took = f", in {seconds(one.proof_seconds)}" if one.proof_seconds >= 0 else ""
    return f"{ago(datetime.fromisoformat(one.proven), now)}{took}"


def _fate(fate: Fate | None) -> str:
    if fate is None:
        return ""
    return f"{fate.why}, goes next" if fate.goes_next else fate.why
