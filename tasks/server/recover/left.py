"""What a recover could not put back, kept until it is told in the end: a run that was cut off has not forgotten it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from .. import files, telling
from ..exported import exported
from ..values.site import Site
from . import fetched

SHOWN = 12
WORDS = {
    "roles": ("statements about roles", "as postgres, once what they name is there"),
    "tablespaces": ("tablespaces", "everything is in the default one now"),
    "database": ("statements about the database", "as postgres, once what they name is there"),
    "objects": ("objects of the database", "only postgres may make them: all of them are in {path}"),
}


def path_of(site: Site) -> str:
    return f"{fetched.STATE}/{site.known_as}-not-restored.json"


def note(site: Site, kind: str, names: Iterable[str]) -> None:
    """In the place of what was noted of that kind before."""
    known = {**_known(site), kind: list(names)}
    files.replace(path_of(site), json.dumps(known, indent=1).encode(), "root", "root", 0o600)


@exported
def tell(site: Site) -> None:
    """A mark "remains" for each kind: what, which, how to get it."""
    for kind, names in _known(site).items():
        if names:
            what, how = WORDS[kind]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            telling.remains(what, "; ".join(names[:SHOWN]) + more, how.format(path=path_of(site)))


def _known(site: Site) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = json.loads(files.read(path_of(site)))
    except (FileNotFoundError, ValueError):
        return {}
    return found
