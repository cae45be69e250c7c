"""What a survey saw on a host, before anything is decided."""

from __future__ import annotations

from dataclasses import dataclass, field

from .release import JournalEntry, Release, last_live


@dataclass(frozen=True)
class HostFacts:
    host: str
    current: str = ""
    """Release id `current` points to; "" on a bare host; "!directory" where a real directory stands in its place."""
    releases: tuple[Release, ...] = ()
    journal: tuple[JournalEntry, ...] = ()
    leftovers: tuple[str, ...] = ()
    """What an interrupted run left behind, in words: the next run tidies it."""
    units: dict[str, str] = field(default_factory=dict)
    """Service instance ("web@ID") -> its state as the service manager says."""
    lock: str = ""
    """Who holds the lock, since when, for what; "" when nobody does."""
    freeze: str = ""
    problems: tuple[tuple[str, str], ...] = ()
    """(what stands in the way of a deploy, what to do about it)."""
    disk_free: int = -1
    """Bytes free for releases; -1 unknown."""
    inodes_free: int = -1
    warm: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    """Releases that lack their services, their environment or their release.json: nobody may go back to them."""
    maintenance: bool = False
    more: dict[str, str] = field(default_factory=dict)

    def release(self, id: str) -> Release | None:
        return next((one for one in self.releases if one.id == id), None)

    @property
    def live(self) -> Release | None:
        return self.release(self.current)

    @property
    def undecided(self) -> bool:
        """`current`, and with it every plan, may still change: a run died between the switch and its record, or
        somebody took it away.
        """
        live = {one.id for one in self.releases if one.state == "live"}
        recorded = last_live(self.journal)
        return (
            live != ({self.current} if self.current else set())
            or recorded not in (None, self.current)
            or self.current in self.incomplete
        )


@dataclass(frozen=True)
class RoleState:
    """How a host does what it is there for, besides releases."""

    host: str
    role: str
    state: str
    """In words, as "follows the database, 0 s behind"."""
    is_well: bool
