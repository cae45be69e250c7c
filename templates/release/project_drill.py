"""Proves a backup: restores it beside the live database, checks it, drops it, and records how long that took."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import project_journal
import project_retention
import project_sequence
from project_answer import ROOT, Refused
from project_backup import PROOF, flush, opened, place, verified


def drill(arguments: dict) -> dict:
    """Of `name`, or the newest. `keep` leaves the copy for somebody to look at, and proves nothing by that.

    The proof is what was restored within `seconds` (RTO); `lost_seconds` is how old it was by then (RPO).
    """
    connection, engine = opened(arguments)
    directory, name = place({**arguments, "name": arguments.get("name") or newest(Path(arguments["directory"]))})
    started = time.monotonic()
    try:
        manifest = verified(connection, engine, directory, name)
    except Refused:
        (directory / f"{name}{PROOF}").unlink(missing_ok=True)  # it may have been whole when it was proven
        raise
    data = directory / manifest["file"]
    engine.check_restore(connection, data, manifest)
    keep = bool(arguments.get("keep"))
    done = engine.rehearse(connection, data, manifest, keep=keep)
    seconds = round(time.monotonic() - started, 1)
    lost = max(0, round((datetime.now(timezone.utc) - datetime.fromisoformat(manifest["taken_at"])).total_seconds()))
    if not keep:
        prove(directory, name, seconds)
        record(arguments, name, done, seconds, lost)
    return {"name": name, "seconds": seconds, "lost_seconds": lost, "taken_at": manifest["taken_at"], **done}


def newest(directory: Path) -> str:
    """By its number. Of those without one, from older programs, by its name, those later than now last."""
    now = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    numbers = {name: one for name, one in project_sequence.numbers(directory).items() if project_retention.moment(name)}
    if not numbers:
        raise Refused(f"There is no backup in {directory}.", "fab backup takes one.")
    return max(numbers, key=lambda name: (numbers[name], not project_retention.is_later(name, now), name))


def prove(directory: Path, name: str, seconds: float) -> None:
    proof, part = directory / f"{name}{PROOF}", directory / f"{name}{PROOF}.part"
    part.write_text(json.dumps({"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": seconds}))
    flush(part)
    os.replace(part, proof)


def record(arguments: dict, name: str, done: dict, seconds: float, lost: int) -> None:
    """For `fab history`."""
    if "journal" in arguments:
        missing = sum(not one["follows"] for one in done.get("left_out", []))
        without = f", without {missing} things that only postgres may make" if missing else ""
        took = f"{done['rows']:,} rows restored in {seconds} s (RTO)"
        note = f"{name}: {took}, the last {lost / 3600:.1f} h not in it (RPO){without}"
        journal, by = Path(arguments["journal"]), arguments.get("by", "timer")
        facts = {"backup": name, "seconds": seconds, "lost_seconds": lost}
        project_journal.append(journal, "drill", os.path.basename(ROOT), by, note, **facts)
