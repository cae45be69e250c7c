"""The backups of a stage, as aligned text and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..model.backup import Saved
from .words import ago, clean, columns, size


def to_text(saved: Sequence[Saved], facts: Mapping[str, str], now: datetime, strong: bool = False) -> str:
    """Newest first, and below what somebody should look at."""
    header = ("backup", "kind", "taken", "size", "rows", "release", "proven")
    rows = [
        (one.name, one.kind, ago(one.taken, now), size(one.size), f"{one.rows:,}", one.release, _proof(one, now))
        for one in saved
    ]
    lines = list(columns(header, rows, strong)) if rows else ["no backup yet: fab backup takes one"]
    return "\n".join([*lines, *(f"look at: {clean(one)}" for one in attention(saved, facts, now))]) + "\n"


def to_json(saved: Sequence[Saved], facts: Mapping[str, str]) -> dict[str, Any]:
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
        }
        for one in saved
    ]
    return {
        "backups": listed,
        "timer": facts.get("timer", ""),
        "last_run": facts.get("last_run", ""),
        "kept": facts.get("kept"),
    }


def attention(saved: Sequence[Saved], facts: Mapping[str, str], now: datetime) -> list[str]:
    """In words, with what to do."""
    found = []
    backups = [one for one in saved if one.kind == "backup"]
    if facts.get("timer", "active") != "active":
        found.append("no timer takes backups on this server: fab provision")
    if facts.get("last_run") not in ("", "success", None):
        found.append(f"the last run of the timer ended with {facts['last_run']}: fab logs --service backup")
    if backups and (now - backups[0].taken).total_seconds() > 26 * 3600:
        found.append(f"the newest backup was taken {ago(backups[0].taken, now)}: fab backup")
    if backups and not any(one.proven for one in backups):
        found.append("none was ever restored: fab drill")
    if facts.get("sent"):
        away = datetime.fromisoformat(facts["sent"])
        if (now - away).total_seconds() > 26 * 3600:
            found.append(f"what is away from this server is of {ago(away, now)}: fab backup")
    elif "sent" in facts:
        found.append("backups are on this server only: set [backup] repository, then fab provision")
    if facts.get("kept"):
        found.append(f"{facts['kept']} is kept by a restore: fab restore-db --undo, or drop it when you are sure")
    return found


def _proof(one: Saved, now: datetime) -> str:
    return ago(datetime.fromisoformat(one.proven), now) if one.proven else "never"
