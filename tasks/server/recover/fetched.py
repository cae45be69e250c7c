"""What was fetched of the lost server, and which of its dumps is the newest.

The folder is root's alone; what lies in it was made by others, links too: it is read by
`files`, which follows none of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .. import files, telling
from ..refused import Refused

STATE = "/var/lib/fab-releases"
OLDER = "recover --snapshot names an older one"
SKEW = timedelta(minutes=2)
"""Between the clocks of two servers that both are right."""


def place() -> str:
    return f"{STATE}/recovered"


@dataclass(frozen=True)
class Dump:
    name: str
    folder: str
    manifest: dict[str, Any]
    taken_at: datetime

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}.dump"

    @property
    def sequence(self) -> int:
        """Which one it was of those taken there; 0 where the program that took it did not count."""
        found = self.manifest.get("sequence")
        return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def newest(dumps: str) -> Dump:
    """Names as warnings those whose clock says something else than their sequence."""
    folder = f"{place()}{dumps}"
    found = dumps_in(folder)
    if not found:
        raise Refused("there is no backup of the database in the snapshot", "is it of this stage?")
    for text in misdated(found):
        telling.warn(text)
    return found[-1]


def dumps_in(folder: str) -> list[Dump]:
    """Oldest first: by their sequence, which no clock disturbs. Those without one come before all others, by their
    clocks; among them what is dated in the future comes before what is not, for such a clock says nothing.

    Not what the archive was asked for: that is of another moment than its name.
    """
    now = datetime.now(timezone.utc)
    found = [one for name in _names(folder) if (one := _read(folder, name)) and one.manifest.get("kind") != "moment"]
    return sorted(found, key=lambda one: (one.sequence, one.taken_at <= now + SKEW, one.taken_at, one.name))


def misdated(found: list[Dump]) -> list[str]:
    """Sentences about dumps, oldest first, whose clock was wrong."""
    now, said = datetime.now(timezone.utc), []
    for number, one in enumerate(found):
        later = [after for after in found[number + 1 :] if after.sequence > one.sequence > 0]
        if one.taken_at > now + SKEW:
            said.append(f"the backup {one.name} is dated in the future: the clock was wrong when it was taken")
        elif overtaken := [after for after in later if after.taken_at < one.taken_at]:
            said.append(
                f"the backup {one.name} was taken before {overtaken[0].name}, and is dated after it: "
                "a clock was wrong; their sequence counts"
            )
    return said


def facts(application: str) -> dict[str, Any]:
    """What the lost cluster said of itself (values/cluster.py); {} where that is not in the snapshot."""
    try:
        found = json.loads(files.read(f"{place()}/var/lib/fab-releases/offsite/{application}/postgresql.json"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise Refused("what the lost PostgreSQL said of itself cannot be read", OLDER) from None
    return found if isinstance(found, dict) else {}


def _names(folder: str) -> list[str]:
    """A name is a moment's, with a number where two were taken in one second."""
    try:
        names = files.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.removesuffix(".json") for name in names if name[:1].isdigit() and name.endswith(".json"))


def _read(folder: str, name: str) -> Dump | None:
    """None for what is no backup: without its manifest, or without its dump, a file is none."""
    try:
        manifest = json.loads(files.read(f"{folder}/{name}.json"))
        taken_at = datetime.fromisoformat(manifest["taken_at"].replace("Z", "+00:00"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Refused):
        telling.warn(f"{folder}/{name}.json is no manifest that can be read: passed over")
        return None
    there = files.entry(f"{folder}/{name}.dump")
    if there is None or there.kind != "regular file":
        return None
    at = taken_at if taken_at.tzinfo else taken_at.replace(tzinfo=timezone.utc)
    return Dump(name, folder, manifest, at)
