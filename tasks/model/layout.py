"""Where everything lives on a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Layout:
    deploy_to: PurePosixPath
    run: PurePosixPath
    """Folder of the web sockets."""

    @property
    def current(self) -> PurePosixPath:
        return self.deploy_to / "current"

    @property
    def shared(self) -> PurePosixPath:
        return self.deploy_to / "shared"

    @property
    def private(self) -> PurePosixPath:
        """Journal, lock and freeze."""
        return self.deploy_to / ".releases"

    @property
    def journal(self) -> PurePosixPath:
        return self.private / "journal.jsonl"

    @property
    def dumps(self) -> PurePosixPath:
        """Backups of the database."""
        return self.deploy_to / "backups" / "database"

    def release(self, id: str) -> PurePosixPath:
        return self.deploy_to / "releases" / id

    def socket(self, id: str) -> PurePosixPath:
        return self.run / f"{id}.sock"
