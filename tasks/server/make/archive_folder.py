"""The folder of pgBackRest's archive, on a disk that outlived its server."""

from __future__ import annotations

from .. import files, trees
from ..exported import exported
from ..refused import Refused
from ..values.site import Site

OWNER = "postgres"


@exported
def own(site: Site, path: str) -> None:  # noqa: ARG001
    """Its files have the number that postgres had on the lost server. Nothing where postgres owns it, or none is."""
    there = files.entry(f"{path}/archive/main/archive.info")
    if there is None or there.owner == OWNER:
        return
    hint = f"its number was another on the lost server: chown -R {OWNER}: {path} where that can be done"
    try:
        left = trees.give(path, OWNER, OWNER)
    except OSError as error:
        raise Refused(f"{OWNER} may not write to {path}: {error.strerror}", hint) from None
    if left:
        raise Refused(f"{OWNER} may not write to {left[0]}: it is no file with one name", hint)
