"""The archive of the database: asked what it reaches, and for the database as it was at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from ..model.archive import Archive
from ..model.moment import LATEST, Moment
from ..model.shell import Script, script


def take(wanted: Moment) -> Script:
    """Leaves a backup of that name; answers fact `moment`. The latest is what the server's clock calls now."""
    latest = wanted.said == LATEST
    return script(("take_moment", "latest" if latest else f"{wanted.at.astimezone(UTC):%Y%m%d-%H%M%S-%f}"))


def name(at: datetime) -> str:
    """As the server names the backup of a moment."""
    told = at.astimezone(UTC)
    return f"at-{told:%Y%m%d-%H%M%S}" + (f"-{told:%f}" if told.microsecond else "")


def parse(facts: Mapping[str, str]) -> Archive | None:
    """Of what `list_backups` told; None where there is no archive."""
    return Archive.from_json(facts["archive"]) if "archive" in facts else None
