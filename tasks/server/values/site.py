"""What a server function is told of the place it works on."""

from __future__ import annotations

from dataclasses import dataclass

from .wire import on_the_wire


@on_the_wire
@dataclass(frozen=True)
class Site:
    """One stage of one application on one host; the first argument of every function that may be called."""

    deploy_to: str
    """Absolute path."""
    application: str
    stage: str
    services: dict[str, str]
    """Name of a service on this host -> web, worker or beat."""
    manager: str
    """systemd or supervisor."""
    known_as: str = ""
    """What all that belongs to this stage alone is called there; "": the application's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "known_as", self.known_as or self.application)

    @property
    def private(self) -> str:
        """Folder of the journal, the freeze and the deploying account's lock."""
        return f"{self.deploy_to}/.releases"

    @property
    def shared(self) -> str:
        """Folder of what outlives releases."""
        return f"{self.deploy_to}/shared"
