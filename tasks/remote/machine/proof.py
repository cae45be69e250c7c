"""What may shut us out undoes itself after a minute, unless a second connection proves the way in."""

from __future__ import annotations

from ...model.shell import Script, script

GUARDED = {"ssh": "SSH", "firewall": "the firewall"}
"""Part -> what people call it."""


def proven(part: str) -> Script:
    """A second connection came in: it stays."""
    return script(("proven", part))


def undone(part: str) -> Script:
    """As it was before, at once."""
    return script(("undone", part))
