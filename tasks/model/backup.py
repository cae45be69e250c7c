"""Backups as a server lists them, and which of them answers for a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any, Literal

from .archive import PLACE, Bucket
from .typed import PLAIN_ADDRESS, STRICT, Count, Line, Match, Positive, Text, Variable


@dataclass(frozen=True, kw_only=True)
class Backup:
    """Backups of the database, taken on the server by itself, whether or not anybody is there."""

    __pydantic_config__ = STRICT

    enabled: bool = True
    """`fab provision` installs the timer."""
    at: Annotated[str, Match(r"([01]\d|2[0-3]):[0-5]\d", 'a time of day such as "02:30"')] = "02:30"
    """When, in the server's time zone, every day. A run that was missed is caught up."""
    drill: Literal["daily", "weekly", "monthly", "never"] = "weekly"
    """How often the newest is restored beside the live database by itself, checked, and dropped: two hours after `at`,
    on Sundays or on the first of a month. Until then it is not proven."""
    daily: Positive = 7
    """Days to keep one of."""
    weekly: Count = 4
    """Weeks to keep one of."""
    monthly: Count = 6
    """Months to keep one of."""
    engine: Literal["dump", "pgbackrest"] = "dump"
    """pgbackrest: besides, PostgreSQL archives every change within a minute, so that `fab restore-db --date` means that
    very second. PostgreSQL must be on the host that migrates, and its server must have room for the archive."""
    archive: Annotated[str, Match(PLACE, 'an absolute path without spaces, or "s3:https://HOST/BUCKET/PATH"')] = (
        "/var/lib/pgbackrest"
    )
    """pgbackrest: where the archive is, encrypted: a folder there, better one that is mounted from elsewhere, or
    "s3:https://HOST/BUCKET/PATH", opened by `variables`. A stage has it to itself."""
    archive_days: Positive = 14
    """pgbackrest: days one can go back to any second of."""

    repository: Annotated[
        str, Match(rf"({PLAIN_ADDRESS})?", "a restic repository, without spaces or shell characters")
    ] = ""
    """restic repository away from the server: "sftp:backup@203.0.113.9:/srv/pos", "s3:https://...", a mounted folder.
    What a new server needs goes there, encrypted, after each backup. Never with a password in it: `variables` name what
    opens it. Empty: it stays on the server itself."""
    key: Line = ""
    """File on *your* machine with the repository's password; `fab provision` makes it once. Keep a copy of it where no
    server is. Empty: ~/.config/fab-releases/APPLICATION.key."""
    variables: tuple[Variable, ...] = ()
    """Variables of *your* environment that the repository asks for: ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]."""

    @property
    def bucket(self) -> Bucket | None:
        """Where the archive is; None for a folder."""
        return Bucket.of(self.archive)

    @property
    def archive_folder(self) -> str:
        """ "" for a bucket."""
        return "" if self.bucket else self.archive

    @property
    def keep(self) -> dict[str, int]:
        return {"daily": self.daily, "weekly": self.weekly, "monthly": self.monthly}


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Of a stage that `fab recover --as` fills with what another one lost. Only in a stage's own table."""

    __pydantic_config__ = STRICT

    variables: Mapping[Variable, Text] = field(default_factory=dict)
    """What its environment file says otherwise than the lost one's, so that nobody gets mail and nobody pays:
    {EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"}. Its SECRET_KEY, domain, database and Redis are
    its own without being named. A stage with this has no beat."""


@dataclass(frozen=True)
class LeftOut:
    """Something of the database that its own role may not make, so that a restore is without it."""

    what: str
    statement: str = ""
    """What postgres says afterwards to make it; "" where it is not known to us."""
    reason: str = ""
    """In PostgreSQL's words."""
    follows: bool = False
    """Only because something else that is left out is missing."""

    @classmethod
    def from_json(cls, told: Any) -> tuple[LeftOut, ...]:
        """Of a manifest or an answer; () for what says nothing of it."""
        found = told if isinstance(told, list) else []
        return tuple(
            cls(str(one["what"]), str(one.get("statement", "")), str(one.get("reason", "")), bool(one.get("follows")))
            for one in found
            if isinstance(one, dict) and "what" in one
        )


@dataclass(frozen=True)
class Saved:
    """A backup or a restore point, as its manifest says; it was read whole before it got its name."""

    name: str
    kind: str
    """"backup"; "restore point": what a deploy took before it migrated; "moment": what the archive was asked for."""
    taken: datetime
    release: str
    size: int
    """Bytes of the file."""
    rows: int
    server_version: str = ""
    proven: str = ""
    """When it was last restored and found right, as an ISO time; "" never."""
    proof_seconds: float = -1
    """How long that took; -1 unknown."""
    sequence: int = 0
    """Higher than that of any backup before it, whatever clocks said; 0 for a moment, and from older programs."""
    wrong_date: str = ""
    """What its manifest says of when it was taken, where that does not fit its number: `taken` is then that of the
    next one, before which it was taken."""
    remarks: tuple[str, ...] = ()
    """What it does not hold, in words."""
    left_out: tuple[LeftOut, ...] = ()
    """What a restore would be without, as far as was known when it was taken."""
    untried: str = ""
    """Why nobody knows what a restore would be without; "" where it was tried."""

    @classmethod
    def from_json(cls, kind: str, text: str) -> Saved:
        """ValueError or KeyError for what is no manifest."""
        told: dict[str, Any] = json.loads(text)
        return cls(
            name=str(told["name"]),
            kind=str(told.get("kind", kind)),
            taken=datetime.fromisoformat(told["taken_at"]),
            release=str(told.get("release", "")),
            size=int(told["bytes"]),
            rows=sum(told["rows"].values()),
            server_version=str(told.get("server_version", "")),
            sequence=int(told.get("sequence", 0)),
            remarks=tuple(str(one) for one in told.get("remarks", ())),
            left_out=LeftOut.from_json(told.get("left_out")),
            untried=str(told.get("untried", "")),
        )

    def with_proof(self, at: str, seconds: str = "") -> Saved:
        """ValueError where `seconds` is no number."""
        return replace(self, proven=at, proof_seconds=float(seconds or -1))

    @property
    def folder(self) -> str:
        """Under backups/."""
        return "restore-points" if self.kind == "restore point" else "database"


@dataclass(frozen=True)
class KeptDatabase:
    """A database beside the live one, which a restore left there."""

    name: str
    at: datetime
    """When it stopped being live, or was made."""
    size: int
    is_way_back: bool
    """It was live; else `fab restore-db --to-scratch` made it for somebody to look at."""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> KeptDatabase:
        at = datetime.fromisoformat(told["kept_at"])
        return cls(str(told["name"]), at, int(told["bytes"]), bool(told["is_way_back"]))


@dataclass(frozen=True)
class Fate:
    """What the policy says of a backup."""

    why: str
    """What keeps it, as "daily: 2026-11-21"."""
    goes_next: bool
    """The backup of tomorrow makes it go."""
