"""Every way a task may end badly, each with its exit code.

ReleasesError
├── UsageError         2   wrong flags or configuration
├── LockedError        3   somebody else deploys, or the stage is frozen
├── PreflightError     4   refused before anything was touched
├── FailedError        1   failed, users saw no change
│   └── HostLost       1   a host did not answer; what it does now is unknown until looked at
├── PutBackError       5   went live, failed its check, was put back
└── MixedStateError    6   a person must look
"""

from __future__ import annotations

from typing import ClassVar


class ReleasesError(Exception):
    """What went wrong, in one sentence, and what to do next."""

    code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class UsageError(ReleasesError):
    """The command line or releases.toml asks for something impossible."""

    code = 2


class LockedError(ReleasesError):
    """Another run holds the lock, or somebody froze the stage."""

    code = 3


class PreflightError(ReleasesError):
    """A server is not fit for what was asked; nothing was touched."""

    code = 4


class FailedError(ReleasesError):
    """Something failed and was undone; users saw no change."""

    code = 1


class HostLost(FailedError):
    """The connection ended before the answer: the outcome there is unknown, not failed."""


class PutBackError(ReleasesError):
    """The release went live, failed its check and was put back."""

    code = 5


class MixedStateError(ReleasesError):
    """Undoing failed somewhere: hosts may differ."""

    code = 6


EXIT_CODES: dict[int, str] = {
    0: "done, or already live",
    1: "failed; users saw no change",
    2: "usage or configuration",
    3: "locked or frozen",
    4: "preflight refused; nothing was touched",
    5: "went live, failed its check, was put back",
    6: "mixed state: a person must look",
    70: "a bug of fab-releases; a report was printed",
    130: "interrupted and undone",
}
