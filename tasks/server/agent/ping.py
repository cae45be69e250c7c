"""Whether calls of a session arrive, and come back, as they were meant."""

from __future__ import annotations

from ..exported import exported
from ..values.site import Site


@exported
def ping(site: Site, value: object) -> object:  # noqa: ARG001
    """`value`, as it arrived."""
    return value
