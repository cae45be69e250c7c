"""A release: one commit, built once, and what became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from .errors import UsageError

State = Literal["ready", "live", "retired", "bad"]

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{7}")
SHA = re.compile(r"[0-9a-f]{40}")
# Stricter than git: `git check-ref-format` accepts $(cmd), `;` and quotes, and a leading dash is an option to git.
REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}")


@dataclass(frozen=True)
class Revision:
    """What was asked for and the one commit it meant when asked."""

    ref: str
    sha: str

    @property
    def short(self) -> str:
        return self.sha[:7]


def valid_ref(ref: str) -> str:
    """The ref itself. UsageError where a shell, git or a reader could take it for something else."""
    if not REF.fullmatch(ref) or ".." in ref or "@{" in ref or ref.endswith((".lock", "/")):
        raise UsageError(
            f"{ref!r} is not a branch, tag or commit this tool will pass on",
            "use letters, digits and . _ / + - @, starting with a letter or digit",
        )
    return ref


def valid_id(text: str) -> str:
    """The release id itself. UsageError for anything else."""
    if not ID.fullmatch(text):
        raise UsageError(f"{text!r} is not a release", "`fab releases` lists them, for example 20261122-101530-9f3c2ab")
    return text


def new_id(sha: str, now: datetime, taken: Sequence[str] = ()) -> str:
    """UTC time and short sha, newer than every id in `taken`.

    Order never comes from this (the journal has it), yet an id that sorts before an older release misleads people:
    UsageError when the clock stands before the newest release.
    """
    stamp = now.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    newest = max((one[:15] for one in taken), default="")
    if stamp <= newest:
        raise UsageError(
            f"this machine's clock says {stamp} UTC but a release of {newest} exists",
            "if it is a second ago, try again; otherwise set the clock (timedatectl)",
        )
    return f"{stamp}-{sha[:7]}"


@dataclass(frozen=True)
class Release:
    """What release.json says."""

    id: str
    sha: str
    ref: str
    by: str = ""
    at: str = ""
    """UTC, ISO 8601, when it was built."""
    config: str = ""
    """Fingerprint of what releases.toml says a release runs: a change of it is worth a new release."""
    python: str = ""
    lock: str = ""
    """Git object ids of what its venv was made from."""
    static: str = ""
    files: int = 0
    migrations: str = ""
    """Hash of the names of all migrations its code knows; equal hashes need no look at the database."""
    state: State = "ready"

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(", ", ": "))

    @classmethod
    def from_json(cls, text: str) -> Release:
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


@dataclass(frozen=True)
class JournalEntry:
    """One line of a server's journal. `seq` only grows; it alone says what came after what."""

    seq: int
    event: str
    release: str
    previous: str = ""
    at: str = ""
    by: str = ""
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> JournalEntry:
        data = json.loads(text)
        known = {one.name for one in fields(cls)} - {"more"}
        return cls(
            **{key: value for key, value in data.items() if key in known},
            more={key: value for key, value in data.items() if key not in known},
        )


def publishes(journal: Sequence[JournalEntry]) -> list[str]:
    """Release ids in the order they last went live, oldest first."""
    order: dict[str, int] = {}
    for entry in sorted(journal, key=lambda one: one.seq):
        if entry.event == "live":
            order.pop(entry.release, None)
            order[entry.release] = entry.seq
    return list(order)


def last_live(journal: Sequence[JournalEntry]) -> str | None:
    """What the journal says is live, "" for nothing; None where it says nothing of it."""
    told = [one for one in journal if one.event in ("live", "repaired", "withdrawn")]
    last = max(told, key=lambda one: one.seq, default=None)
    return None if last is None else last.previous if last.event == "withdrawn" else last.release


def rollback_target(
    current: str,
    releases: Sequence[Release],
    journal: Sequence[JournalEntry],
    steps: int = 1,
    incomplete: Sequence[str] = (),
) -> str:
    """The release that was live `steps` good releases before `current`; "" when there is none.

    Only what was live may come back (`retired`), never a failed or half-built one (`ready`, `bad`), or an `incomplete`.
    """
    good = {release.id for release in releases if release.state == "retired"} - set(incomplete)
    order = publishes(journal)
    before = order[: order.index(current)] if current in order else order
    candidates = [one for one in before if one in good and one != current]
    return candidates[-steps] if 0 < steps <= len(candidates) else ""
