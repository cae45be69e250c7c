"""The secrets that a stage is made with: those it has, or new ones."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from ...model.call import Call
from ...model.shell import Line, Secret, Word


def _made() -> Secret:
    return Secret(secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Offsite:
    """What opens the repository away from the server."""

    key: Secret = field(default_factory=lambda: Secret(""))
    variables: Secret = field(default_factory=lambda: Secret(""))
    """Lines NAME=value."""


@dataclass(frozen=True)
class Seeds:
    """Secrets of a stage: what its environment file says, or made anew where there is none yet.

    Made anew, they must also reach a database and a Redis that are there already: `look` then sees neither.
    """

    environment: Secret | None = None
    """The file as another host of the stage has it."""
    fresh: bool = True
    database: Secret = field(default_factory=_made)
    redis: Secret = field(default_factory=_made)
    redis_port: int = 0
    """As the environment file has it; 0 where it says none."""
    secret_key: Secret = field(default_factory=_made)
    offsite: Offsite = field(default_factory=Offsite)
    archive: Secret = field(default_factory=_made)
    """The key of an archive that does not exist yet; one that does is never read from the server."""
    replication: Secret = field(default_factory=_made)
    replicates: bool = False
    """`replication` is what a copy knows; made anew, the database must learn it as well."""

    @property
    def in_place(self) -> Seeds:
        """When everything has been made with them."""
        return replace(self, fresh=False, replicates=True)

    def look(self, *words: Word) -> tuple[Word, ...]:
        return ("look_nothing",) if self.fresh else words

    def look_by(self, asked: Call[object]) -> Line | Call[object]:
        return ("look_nothing",) if self.fresh else asked
