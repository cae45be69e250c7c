"""Reads the table of contents of an archive that `pg_dump -Fc` wrote: what is in it, as PostgreSQL would make it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from project_answer import Refused

OLDEST, NEWEST = (1, 12), (1, 16)  # PostgreSQL 9.0 to 18
CUSTOM = 1
END = -1  # instead of the length of a string: there is none
# The archive's own word on where names are looked up; pg_restore says it as it is before everything else.
NOWHERE = "SELECT pg_catalog.set_config('search_path', '', false);\n"
AS_LIVE = "RESET search_path;"
PREAMBLE = {"ENCODING", "STDSTRINGS", "SEARCHPATH"}
LONG_KINDS = ("LARGE OBJECT", "MATERIALIZED VIEW", "EVENT TRIGGER", "FOREIGN TABLE", "FOREIGN SERVER", "OPERATOR CLASS")
NONE, BEFORE, DATA, AFTER = 1, 2, 3, 4  # sections; what has none goes with what it is about


@dataclass(frozen=True)
class Entry:
    """One thing that the archive makes."""

    id: int
    table: int
    """The object's number in the database that was dumped; 0 where it has none."""
    kind: str
    """In pg_dump's words: "TABLE", "ACL", "TABLE DATA"."""
    tag: str
    namespace: str
    owner: str
    section: int
    statement: str
    tablespace: str
    needs: tuple[int, ...] = field(compare=False)

    @property
    def name(self) -> str:
        """For people."""
        if self.section != NONE:
            return f"{self.kind.lower()} {f'{self.namespace}.' if self.namespace else ''}{self.tag}"
        return f"{self.kind.lower()} on {self.about}"

    @property
    def about(self) -> str:
        """Of a comment or a right, whose tag says the kind first."""
        kind = next((kind for kind in LONG_KINDS if self.tag.startswith(f"{kind} ")), self.tag.partition(" ")[0])
        name = self.tag[len(kind) + 1 :]
        return f"{kind.lower()} {f'{self.namespace}.' if self.namespace else ''}{name}"

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same thing in two archives."""
        whose = (self.owner,) if self.kind == "DEFAULT ACL" else ()
        return (self.kind, self.namespace, self.tag, *whose)


def contents(path: Path) -> tuple[list[Entry], str]:
    """In the order of the archive, without what it says of itself and of the database; the version of pg_dump."""
    try:
        with path.open("rb") as file:
            reader = Reader(file)
            entries = [entry for entry in reader.entries() if entry.kind not in PREAMBLE]
            return [entry for entry in entries if not is_of_database(entry)], reader.made_by
    except (OSError, EOFError, ValueError) as error:
        raise Refused(f"{path.name} is no archive of pg_dump: {error}.", "Name another one.") from None


def of_database(path: Path) -> list[Entry]:
    """How the database itself was made, what was set for it, and who might do what with it."""
    with path.open("rb") as file:
        return [entry for entry in Reader(file).entries() if is_of_database(entry)]


def is_of_database(entry: Entry) -> bool:
    return entry.kind.startswith("DATABASE") or (entry.section == NONE and entry.tag.startswith("DATABASE "))


class Reader:
    """pg_backup_archiver.c, ReadHead and ReadToc."""

    made_by = ""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        if self.take(5) != b"PGDMP":
            raise ValueError("it begins otherwise")
        major, minor, _, self.int_size, self.offset_size, form = self.take(6)
        self.version = (major, minor)
        if not OLDEST <= self.version <= NEWEST or form != CUSTOM:
            raise ValueError(f"version {major}.{minor} of format {form} is unknown")

    def entries(self) -> list[Entry]:
        if self.version >= (1, 15):
            self.take(1)  # how it is compressed
        else:
            self.number()
        for _ in range(7):  # when it was made
            self.number()
        _, _, self.made_by = self.text(), self.text(), self.text()  # the database, its server, pg_dump
        return [self.entry() for _ in range(self.number())]

    def entry(self) -> Entry:
        number = self.number()
        self.number()  # whether it has data
        self.text()  # the catalogue of the object
        table = int(self.text() or 0)
        tag, kind, section = self.text(), self.text(), self.number()
        statement, _, _ = self.text(), self.text(), self.text()  # how to drop and to copy it
        namespace, tablespace = self.text(), self.text()
        if self.version >= (1, 14):
            self.text()  # access method
        if self.version >= (1, 16):
            self.number()  # kind of relation
        owner, _ = self.text(), self.text()  # whether it has OIDs
        needs = []
        while (need := self.text_or_none()) is not None:
            needs.append(int(need))
        self.take(1 + self.offset_size)  # where its data begins
        return Entry(number, table, kind, tag, namespace, owner, section, statement, tablespace, tuple(needs))

    def take(self, size: int) -> bytes:
        found = self.file.read(size)
        if len(found) != size:
            raise EOFError("it ends too early")
        return found

    def number(self) -> int:
        sign, *digits = self.take(1 + self.int_size)
        return int.from_bytes(bytes(digits), "little") * (-1 if sign else 1)

    def text_or_none(self) -> str | None:
        size = self.number()
        return None if size == END else self.take(size).decode(errors="surrogateescape")

    def text(self) -> str:
        return self.text_or_none() or ""


def looked_up_as_live(path: Path) -> tuple[bytes, int]:
    """(head, size): `head` in place of the archive's first `size` bytes leaves search_path to the session.

    The archive names everything with its schema, and empties search_path so that nothing else is found; what the
    bodies of functions name without one is then found nowhere.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    before, found, _ = head.partition(NOWHERE.encode())
    if not found or b"SEARCHPATH" not in before:
        raise Refused(f"{path.name} does not say where names are looked up.", "The lines on stderr say more.")
    replaced = AS_LIVE.ljust(len(NOWHERE) - 1) + "\n"
    return before + replaced.encode(), len(before) + len(found)
