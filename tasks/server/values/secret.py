"""A text that is written out only on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from .wire import on_the_wire


@on_the_wire
@dataclass(frozen=True)
class Secret:
    """Shown nowhere: not in a plan, a log, a traceback or an argument list. Legal both ways on the wire."""

    value: str = field(repr=False)
