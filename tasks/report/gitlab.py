"""GitLab CI: phases fold in the job's log."""

from __future__ import annotations

import time
from collections.abc import Callable

from .plain import Sections


def sections(clock: Callable[[], float] = time.time) -> Sections:
    """`clock` is seconds since 1970: GitLab shows how long a section took."""

    def mark(kind: str, name: str) -> str:
        return f"\x1b[0Ksection_{kind}:{int(clock())}:{name.replace(' ', '_')}\r\x1b[0K"

    return Sections(begin=lambda name, title: f"{mark('start', name)}{title}", end=lambda name: mark("end", name))
