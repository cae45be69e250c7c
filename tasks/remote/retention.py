"""What the policy of the servers says of the backups there are: the very program that a release carries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from types import ModuleType

from ..model.backup import Backup, Fate, Saved
from .library import programs


def fates(saved: Iterable[Saved], wanted: Backup, now: datetime) -> dict[str, Fate]:
    """Name -> what keeps it, and whether the backup of tomorrow makes it go. Others go otherwise."""
    mine = [one for one in saved if one.kind == "backup"]
    names, proven = [one.name for one in mine], [one.name for one in mine if one.proven]
    stamp = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}"
    numbers = {one.name: one.sequence for one in mine}
    kept = _policy().decide(names, proven, **wanted.keep, now=stamp, numbers=numbers)
    going = _policy().goes_next(names, proven, **wanted.keep, now=stamp, numbers=numbers)
    return {name: Fate(kept.get(name, "no rule"), name in going) for name in names}


def misdated(numbered: Sequence[Saved]) -> tuple[Saved, ...]:
    """Of those in the order of their numbers: the fewest without which no date goes back."""
    wrong = _policy().misdated([(place, one.taken) for place, one in enumerate(numbered)])
    return tuple(numbered[place] for place in sorted(wrong))


@cache
def _policy() -> ModuleType:
    module = ModuleType("project_retention")
    exec(programs()["project_retention.py"], module.__dict__)
    return module
