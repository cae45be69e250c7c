"""The commit: resolved once, fetched into the server's mirror, written out."""

from __future__ import annotations

from ..model.config import Stage
from ..model.release import Release
from ..model.shell import Script, script


def resolve(stage: Stage, ref: str) -> Script:
    """Tells the fact `revision`: the one commit `ref` means now."""
    return script(("resolve", stage.repository, ref))


def fetch(stage: Stage, release: Release) -> Script:
    """Nothing, when the mirror has the commit already."""
    return script(("fetch", stage.repository, release.sha))


def checkout(stage: Stage, release: Release) -> Script:
    return script(("checkout", release.id, stage.repository, release.sha, stage.sub_directory))
