"""Makes what an archive holds in an empty database, as far as our role may, and names what it could not make.

pg_restore does it, at full speed and without stopping. Whether it did is not read from its words: the result is
described by pg_dump again and compared, entry by entry. What is missing is said once more in a session of our own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Callable, Iterable, Iterator

import project_checks
from project_answer import Refused
from project_archive import AFTER, BEFORE, DATA, NONE, Entry, contents, looked_up_as_live
from project_mend import Mender, Reason
from project_sessions import fetch, quote

GRANTS, LAST = 5, 6  # phases after those that are sections: who may do what, then what needs that
RIGHTS = ("ACL", "DEFAULT ACL")
NOT_MADE = "-- *not* creating"  # what every database has: the schema public
VIEW_DATA = "MATERIALIZED VIEW DATA"
AFTER_RIGHTS = (VIEW_DATA, "EVENT TRIGGER")
SECRETIVE = ("SUBSCRIPTION", "USER MAPPING", "SERVER")  # their statements hold passwords
# What belongs to whoever owns what it is of: pg_restore gives none of these to anybody.
OF_ANOTHER = (
    *("CAST", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "RULE", "TRIGGER"),
    *("ROW SECURITY", "POLICY", "USER MAPPING", "SEQUENCE OWNED BY", "TABLE ATTACH", "PUBLICATION TABLE"),
    *("PUBLICATION TABLES IN SCHEMA", "STATISTICS DATA", VIEW_DATA),
)
LARGE_OBJECTS = ("BLOB", "BLOB METADATA")
SHUT_OUT = """
    SELECT name FROM unnest(%s::text[]) AS name WHERE to_regnamespace('public') IS NOT NULL
    AND EXISTS (SELECT FROM pg_roles WHERE rolname = name)
    AND NOT has_schema_privilege(name, to_regnamespace('public'), 'CREATE')"""
NOT_FILLED = """
    SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'm' AND NOT relispopulated"""
# Rows that somebody added to a table of an extension, which belongs to whoever could make that.
CLOSED = """
    SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    WHERE relkind IN ('r', 'p') AND NOT pg_has_role(relowner, 'USAGE')"""
EXTENSIONS_HINT = (
    "Only a superuser may create them here. In releases.toml: [provision] extensions = [{names}], then fab provision:"
    " they are there then before anything is restored. Nothing was switched."
)
OBJECTS = "SELECT oid::text FROM pg_largeobject_metadata"
OURS = "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'USAGE')"


@dataclass(frozen=True)
class Lost:
    """Something that an archive holds and the copy lacks."""

    what: str
    statement: str
    """For postgres, afterwards."""
    reason: str
    is_excused: bool
    """Our role may not make it, or it hangs on something that our role may not make; nothing else is wrong with it."""
    hangs: bool = False

    def to_json(self) -> dict:
        return {"what": self.what, "statement": self.statement, "reason": self.reason, "follows": self.hangs,
                "in_archive": True}  # fmt: skip


def told(left_out: list[dict]) -> list[str]:
    """For people: not what only follows from something else that is named."""
    return [
        one["what"]
        + (f" ({one['reason']})" if one["reason"] else "")
        + (f"; afterwards, as postgres: {one['statement']}" if 0 < len(one["statement"]) < 200 else "").replace(
            "\n", " "
        )
        for one in left_out
        if not one["follows"]
    ]


@dataclass
class Copy:
    """A database beside the live one that an archive is restored to."""

    session: object
    """In it."""
    name: str
    archive: Path
    path: str
    """search_path of the live one."""
    run: Callable[..., tuple[int, str]]
    """(program, words...) -> (exit code, what it said)."""
    entries: list[Entry] = field(default_factory=list)
    made_by: str = ""
    lost: list[Lost] = field(default_factory=list)
    is_short: bool = False
    """pg_restore could not make something at once."""
    unproven: set[tuple[str, str]] = field(default_factory=set)
    """(schema, table) with a check that is not as it was, and was named."""

    def __post_init__(self) -> None:
        self.entries, self.made_by = contents(self.archive)
        self.by_id = {entry.id: entry for entry in self.entries}
        ours = {name for (name,) in fetch(self.session, OURS)}
        self.mender = Mender(self.session, self.script, self.path, ours)

    def phase(self, entry: Entry) -> int:
        if entry.kind in RIGHTS:
            return GRANTS
        if entry.kind in AFTER_RIGHTS:
            return LAST
        if entry.section == NONE:
            above = next((self.by_id[need] for need in entry.needs if need in self.by_id), None)
            return self.phase(above) if above else BEFORE
        return entry.section

    def of(self, phase: int) -> list[Entry]:
        return [entry for entry in self.entries if self.phase(entry) == phase]

    def restore(self, entries: Iterable[Entry], *words: str) -> tuple[int, str]:
        with listed(entries) as chosen:
            words = (f"--use-list={chosen}", *words, str(self.archive))
            return self.run("pg_restore", *words, database=self.name) if chosen else (0, "")

    def restore_as_live(self, entries: Iterable[Entry]) -> tuple[int, str]:
        """One after the other, and what names no schema is found where the live database finds it."""
        with listed(entries) as chosen:
            words = (f"--use-list={chosen}", "--exit-on-error")
            given = {"database": self.name, "feed": self.feed, "search_path": self.path}
            return self.run("pg_restore", *words, **given) if chosen else (0, "")

    def feed(self, pipe: IO[bytes]) -> None:
        head, size = looked_up_as_live(self.archive)
        with self.archive.open("rb") as file:
            file.seek(size)
            pipe.write(head)
            shutil.copyfileobj(file, pipe, 1 << 20)

    def script(self, entry: Entry, *words: str) -> str:
        with tempfile.TemporaryDirectory() as folder, listed([entry]) as chosen:
            out = Path(folder) / "script"
            code, told = self.run("pg_restore", *words, f"--use-list={chosen}", f"--file={out}", str(self.archive))
            if code:
                raise Refused(f"pg_restore failed: {told}", "Nothing was switched; the lines on stderr say more.")
            return out.read_text(errors="surrogateescape")

    def as_it_is(self) -> tuple[list[Entry], str]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "schema.dump"
            code, told = self.run("pg_dump", "-Fc", "-Z0", "--schema-only", f"--file={out}", database=self.name)
            if code:
                raise Refused(f"What was restored cannot be described: {told}", "Nothing was switched.")
            return contents(out)


@contextmanager
def listed(entries: Iterable[Entry]) -> Iterator[str]:
    """A file that names them for pg_restore; "" for none."""
    lines = "".join(f"{entry.id};\n" for entry in entries)
    if not lines:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", prefix="entries-") as file:
        file.write(lines)
        file.flush()
        yield file.name


def rebuild(copy: Copy, rows: Callable[[], dict] | None = None, expected: dict | None = None) -> list[Lost]:
    """Everything but rows where nobody says which are `expected`."""
    with owners_let_in(copy):
        build(copy, BEFORE, with_data=expected is not None)
        if expected is not None:
            load(copy, rows, expected)
        build(copy, AFTER)
    build(copy, GRANTS)
    if copy.is_short:  # the function of an index is called as the owner of its table, who may read others only now
        mend(copy, [*copy.of(BEFORE), *copy.of(AFTER)])
    build(copy, LAST, with_data=expected is not None)
    lost = copy.lost + differences(copy) + objects_kept(copy)
    return [*lost, *empty_views(copy), *object_rights(copy)] if expected is not None else lost


@contextmanager
def owners_let_in(copy: Copy) -> Iterator[None]:
    """A table is only given to who may create one there: its owner need not be allowed any more, and what the backup
    allows it comes after its tables.
    """
    owners = sorted({entry.owner for entry in copy.entries if entry.owner})
    guests = [name for (name,) in fetch(copy.session, SHUT_OUT, [owners])]
    for name in guests:
        fetch(copy.session, f"GRANT CREATE ON SCHEMA public TO {quote(name)}")
    yield
    for name in guests:
        fetch(copy.session, f"REVOKE CREATE ON SCHEMA public FROM {quote(name)}")


def build(copy: Copy, phase: int, with_data: bool = True) -> None:
    entries = copy.of(phase)
    if not with_data:
        entries = [entry for entry in entries if not is_about_rows(entry)]
    jobs = [f"--jobs={os.cpu_count() or 1}"] if phase == AFTER else []
    if not copy.restore(entries, *jobs)[0]:
        return
    if phase == LAST:
        fill_views(copy)
    for entry in entries:
        if entry.kind == "ACL" and is_about_rows(entry):  # nothing describes them: each is said once more
            copy.mender.grant(entry)
    copy.is_short = True
    mend(copy, entries)


def is_about_rows(entry: Entry) -> bool:
    about = (*LARGE_OBJECTS, VIEW_DATA, "STATISTICS DATA")
    return entry.kind in about or (entry.section == NONE and entry.tag.startswith("LARGE OBJECT"))


def mend(copy: Copy, entries: list[Entry]) -> None:
    """What one hangs on may be made after it."""
    there: list[Entry] = []
    while (now := copy.as_it_is()[0]) != there:
        there = now
        mend_once(copy, entries, {entry.key: entry for entry in there})


def mend_once(copy: Copy, entries: list[Entry], have: dict) -> None:
    for entry in entries:
        found = have.get(entry.key)
        if is_about_rows(entry):
            continue
        if entry.kind == "ACL":
            if found is None or found.statement != entry.statement:
                copy.mender.grant(entry)
        elif found is None:
            copy.mender.make(entry)
        elif owner_of(found) != owner_of(entry):
            copy.mender.give(entry)


def fill_views(copy: Copy) -> None:
    empty = set(fetch(copy.session, NOT_FILLED))
    for entry in copy.entries:
        if entry.kind == VIEW_DATA and (entry.namespace, entry.tag) in empty:
            copy.mender.make(entry)


def object_rights(copy: Copy) -> list[Lost]:
    return [
        Lost(rights(entry), entry.statement.strip(), copy.mender.reasons[entry.id].text, True)
        for entry in copy.of(GRANTS)
        if is_about_rows(entry) and entry.id in copy.mender.reasons
    ]


def empty_views(copy: Copy) -> list[Lost]:
    """Those that had something in them."""
    empty = set(fetch(copy.session, NOT_FILLED))
    found = [one for one in copy.of(LAST) if (one.namespace, one.tag) in empty and one.kind == VIEW_DATA]
    lost = []
    for one in found:
        why = copy.mender.reasons.get(one.id, Reason("", ""))
        what = f"content of materialized view {one.namespace}.{one.tag}"
        lost.append(Lost(what, one.statement.strip(), why.text, why.by_right))
    return lost


# --- rows ---


def load(copy: Copy, rows: Callable[[], dict], expected: dict) -> None:
    """What can be loaded at once is; then what needs names found as live finds them."""
    check_tables(copy, rows(), expected)
    checks = project_checks.set_aside(copy.session)
    shut = of_extensions(copy)
    open_to_us = [entry for entry in copy.of(DATA) if entry not in shut]
    code, told = copy.restore(open_to_us, f"--jobs={os.cpu_count() or 1}")
    if code:
        load_again(copy, open_to_us, rows(), expected, told)
    copy.lost += rows_lost(copy)
    check_objects(copy)
    for one in project_checks.put_back(copy.session, checks, copy.path):
        copy.lost.append(Lost(one.what, one.statement, one.reason, is_excused=True))
        copy.unproven.add((one.check.namespace, one.check.tag))


def check_tables(copy: Copy, there: dict, expected: dict) -> None:
    missing = sorted(set(expected) - set(there))
    if missing:
        reasons = [lost.reason for lost in differences(copy) if lost.reason and not lost.hangs]
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more tables" if len(missing) > 3 else "")
        raise Refused(
            f"It cannot be restored without {names}: {reasons[0] if reasons else 'nobody said why'}.",
            way_out(copy) or "Nothing was switched; the lines on stderr say more.",
        )


def way_out(copy: Copy) -> str:
    """For the extensions that only a superuser may create."""
    there = {name for (name,) in fetch(copy.session, "SELECT extname FROM pg_extension")}
    wanted = [entry.tag for entry in copy.entries if entry.kind == "EXTENSION" and entry.tag not in there]
    return EXTENSIONS_HINT.format(names=", ".join(f'"{name}"' for name in wanted)) if wanted else ""


def load_again(copy: Copy, wanted: list[Entry], there: dict, expected: dict, told: str) -> None:
    """COPY loads all of a table or nothing; the others can be said twice."""
    named = fetch(
        copy.session,
        "SELECT id, format('%%I.%%I', s, name) FROM unnest(%s::int[], %s::text[], %s::text[]) AS t(id, s, name)",
        [[entry.id for entry in wanted], [entry.namespace for entry in wanted], [entry.tag for entry in wanted]],
    )
    tables = dict(named)
    again = [
        entry
        for entry in wanted
        if entry.kind != "TABLE DATA" or (expected.get(tables[entry.id], 0) and not there.get(tables[entry.id], 0))
    ]
    if not again:
        raise Refused(f"pg_restore failed: {told}", "Nothing was switched; the lines on stderr say more.")
    code, told = copy.restore_as_live(again)
    if code:
        raise Refused(f"pg_restore failed: {told}", "Nothing was switched; the lines on stderr say more.")


def of_extensions(copy: Copy) -> list[Entry]:
    """Rows of tables that belong to an extension and not to us."""
    closed = set(fetch(copy.session, CLOSED))
    return [one for one in copy.of(DATA) if one.kind == "TABLE DATA" and (one.namespace, one.tag) in closed]


def rows_lost(copy: Copy) -> list[Lost]:
    """The same for the live database and for a copy."""
    added = [one for one in of_extensions(copy) if "FROM stdin;\n\\.\n" not in copy.script(one)]
    reason = "the table belongs to an extension"
    return [Lost(f"rows that were added to {one.namespace}.{one.tag}", "", reason, True) for one in added]


def check_objects(copy: Copy) -> None:
    """Large objects, in whose place there is nothing that pg_dump would describe without their content."""
    there = {number for (number,) in fetch(copy.session, OBJECTS)}
    if missing := [number for _, number in large_objects(copy) if number not in there]:
        raise Refused(f"Large object {missing[0]} is not in the copy.", "Nothing was switched.")


def large_objects(copy: Copy) -> Iterator[tuple[str, str]]:
    """(owner, number)"""
    for entry in copy.entries:
        if entry.kind in LARGE_OBJECTS:
            numbers = [entry.tag] if entry.kind == "BLOB" else entry.statement.split()
            yield from ((entry.owner, number) for number in numbers)


def objects_kept(copy: Copy) -> list[Lost]:
    """Large objects that cannot be given back to their owner; the same without one of them in the copy."""
    return [
        Lost(f"large object {number}: its owner {owner}", f"ALTER LARGE OBJECT {number} OWNER TO {quote(owner)};",
             f'must be member of role "{owner}"', True)
        for owner, number in large_objects(copy)
        if owner not in copy.mender.ours
    ]  # fmt: skip


# --- what is not as it was ---


def mark(archive: Path, more: tuple) -> str:
    """A digest of the schema in an archive, and of `more`."""
    entries, made_by = contents(archive)
    words = [
        (entry.kind, entry.namespace, "" if is_about_rows(entry) else entry.tag, entry.owner, entry.tablespace,
         "" if is_about_rows(entry) else entry.statement)
        for entry in entries
        if entry.section != DATA or is_about_rows(entry)
    ]  # fmt: skip
    words = [one for one in words if one[2]] + sorted({one for one in words if not one[2]})
    return hashlib.sha256(json.dumps([made_by, words, more], default=str).encode()).hexdigest()


def differences(copy: Copy) -> list[Lost]:
    there, made_by = copy.as_it_is()
    same_words = made_by.split(".")[0] == copy.made_by.split(".")[0]  # each version says some things otherwise
    left = Counter(compared(entry, same_words) for entry in there)
    wanted = {compared(entry, same_words) for entry in copy.entries}
    have = {entry.key: entry for entry in there if compared(entry, same_words) not in wanted}
    absent: set[int] = set()
    short: set[int] = set()
    lost = []
    for entry in copy.entries:
        if copy.phase(entry) == DATA or is_about_rows(entry):
            continue
        mark, found = compared(entry, same_words), have.get(entry.key)
        if left[mark]:
            left[mark] -= 1
        elif found is None or (entry.namespace, entry.tag) not in copy.unproven:
            hangs = any(need in (short if entry.kind == "ACL" else absent) for need in entry.needs)
            short.add(entry.id)
            if found is None and not entry.statement.startswith(NOT_MADE):
                absent.add(entry.id)
            lost.append(described(copy, entry, found, hangs))
            if found is not None:
                left[compared(found, same_words)] -= 1
    more = [entry for entry, count in left.items() if count > 0 and entry.kind in RIGHTS]
    return lost + [Lost(f"{rights(entry)}, which the backup has not", "", "", True) for entry in more]


def compared(entry: Entry, same_words: bool) -> Entry:
    statement = entry.statement if same_words else ""
    return replace(entry, id=0, table=0, needs=(), owner=owner_of(entry), statement=statement)


def owner_of(entry: Entry) -> str:
    """ "" where it has none of its own."""
    return "" if entry.section == NONE or entry.kind in OF_ANOTHER else entry.owner


def described(copy: Copy, entry: Entry, found: Entry | None, hangs: bool) -> Lost:
    reason = copy.mender.reasons.get(entry.id, Reason("", ""))
    text = reason.text or ("something that it is about is missing" if hangs else "our role may not")
    excused = reason.by_right or hangs
    if entry.kind in SECRETIVE:
        return Lost(entry.name, "", text, excused, hangs)
    statement = entry.statement.strip()
    if entry.kind in RIGHTS:
        return Lost(rights(entry), statement, text, True, hangs)
    owned = "\n".join(copy.mender.given_away(entry))
    if statement.startswith(NOT_MADE) or (found and owner_of(found) != owner_of(entry)):
        return Lost(f"{entry.name}: its owner {entry.owner}", owned, text, excused, hangs)
    if found is not None:
        return Lost(f"{entry.name} as it was", statement, text, True, hangs)
    return Lost(entry.name, f"{statement}\n{owned}".strip(), text, excused, hangs)


def rights(entry: Entry) -> str:
    if entry.kind == "ACL":
        return f"rights on {entry.about}"
    return f"{entry.tag.lower()} of {entry.owner}{f' in schema {entry.namespace}' if entry.namespace else ''}"
