"""The copy of media and configuration that goes with each backup: where it is, what it has, what it has not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from .backup import Backup

ONLY_HERE = "on this server only: [backup] repository is not set"


@dataclass(frozen=True)
class FilesCopy:
    """As the server wrote it down."""

    place: str
    is_here: bool
    """On the server itself."""
    folders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Folder of shared_dirs -> files, bytes."""
    remarks: tuple[str, ...] = ()
    """What is not in it, and what there is less of than there was."""
    notes: tuple[str, ...] = ()
    """What is worth to know, and no fault."""
    problems: tuple[str, ...] = ()
    """What the run failed for."""

    @classmethod
    def from_json(cls, text: str) -> FilesCopy | None:
        """None where nothing was copied yet, or what is there cannot be read."""
        try:
            told = json.loads(text)
            return cls(
                place=str(told["place"]),
                is_here=bool(told["here"]),
                folders={str(name): (int(one[0]), int(one[1])) for name, one in told["folders"].items()},
                remarks=tuple(str(one) for one in told["remarks"]),
                notes=tuple(str(one) for one in told["notes"]),
                problems=tuple(str(one) for one in told["problems"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None

    @property
    def contents(self) -> str:
        """ "media: 1,204 files; configuration" """
        counted = [f"{name}: {count:,} files" for name, (count, _) in self.folders.items()]
        return "; ".join([*counted, "configuration"])


def told_of_files(wanted: Backup, copied: FilesCopy | None) -> list[tuple[str, bool]]:
    """What `fab backup` says after the database, each with whether it is a warning."""
    if copied is None:
        return [("only the database: media and configuration are in no backup until fab provision ran", True)]
    sent = [(f"and sent to {wanted.repository}, with media and configuration ({copied.contents})", False)]
    kept = [(f"with media and configuration ({copied.contents}), in {copied.place}", False), (ONLY_HERE, True)]
    notes = [(one, False) for one in copied.notes] + [(one, True) for one in copied.remarks]
    return [*(kept if copied.is_here else sent), *notes]
