"""Backups: taken, listed, restored, rehearsed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from ..model.backup import KeptDatabase, Saved
from ..model.config import Stage
from ..model.shell import Script, script
from . import health, retention


def take(stage: Stage) -> Script:
    return script(("backup", arguments(stage)))


def arguments(stage: Stage) -> str:
    """What the release's program is told, by us or by the timer."""
    return json.dumps({"directory": str(stage.layout.dumps), "keep": stage.backup.keep})


def drill_arguments(stage: Stage) -> str:
    """As the timer says it: of the newest."""
    return json.dumps({"directory": str(stage.layout.dumps), "journal": str(stage.layout.journal)})


def look(stage: Stage) -> Script:
    """How its backups stand, as facts for `model.standing`; nothing where there are none to be."""
    return script(("survey_backups",)) if stage.backup.enabled and stage.manager == "systemd" else Script()


def copy_files(stage: Stage) -> Script:
    """A fact `copied`: how it went, as JSON; none where nothing copies them. To the repository, or on the server."""
    return script(("copy_files", stage.backup.repository))


def listing() -> Script:
    return script(("list_backups",))


def parse(marks: Iterable[tuple[str, ...]]) -> tuple[Saved, ...]:
    """(kind, word, ...) as a session heard them -> newest first, by number. What is no manifest is no backup."""
    found = []
    for mark in marks:
        if mark[0] == "saved":
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                _, kind, text, *proof = mark
                found.append(Saved.from_json(kind, base64.b64decode(text).decode()).with_proof(*proof))
    return tuple(sorted(_dated(found), key=lambda one: (one.taken, one.sequence), reverse=True))


def _dated(found: Iterable[Saved]) -> Iterator[Saved]:
    """Where a date does not fit a number, a clock was wrong: it was taken before the next one, or after the last."""
    numbered = sorted((one for one in found if one.sequence), key=lambda one: one.sequence)
    yield from (one for one in found if not one.sequence)
    wrong = retention.misdated(numbered)
    fitting = [one for one in numbered if one not in wrong]
    for one in numbered:
        if one in wrong:
            later = [other for other in fitting if other.sequence > one.sequence]
            known = later[0] if later else fitting[-1]
            yield replace(one, taken=known.taken, wrong_date=one.taken.isoformat())
        else:
            yield one


def kept(facts: Mapping[str, str]) -> tuple[KeptDatabase, ...]:
    """Newest first; () while the database does not answer."""
    found = json.loads(facts.get("kept") or "{}").get("databases", [])
    return tuple(KeptDatabase.from_json(one) for one in found)


def preview(saved: Saved) -> Script:
    """Reads the backup whole; answers what is newer than it, and what its schema is to the live release."""
    return script(("restore_plan", saved.folder, saved.name))


def restore(run: str, saved: Saved, who: str) -> Script:
    return script(("restore_database", run, saved.folder, saved.name, who))


def restore_point(release: str, who: str) -> Script:
    """The database as it was before `release` migrated it; `release` is the word of this run."""
    return script(("restore_database", release, "restore-points", release, who))


def swap_back(run: str, kept: str, who: str) -> Script:
    return script(("swap_back", run, kept, who))


def drop_kept(kept: str, who: str) -> Script:
    return script(("drop_kept", kept, who))


def unswap(run: str, who: str) -> Script:
    """Undo of either, safe where the run did not get so far."""
    return script(("unswap", run, who))


def rehearse(saved: Saved, *, keep: bool, by: str = "") -> Script:
    """The journal names `by` as the one who proved it."""
    return script(("rehearse", saved.folder, saved.name, "true" if keep else "false", by))


def well(run: str, stage: Stage, current: str) -> Script:
    return script(("site_is_well", run, health.in_front(stage, stage.primary, current)))
