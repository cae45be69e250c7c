"""The one way a server function says no."""

from __future__ import annotations


class Refused(Exception):
    """`message` names the place and the reason, `hint` the next step; both are for people."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
