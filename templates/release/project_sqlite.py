"""Copies, restores and swaps an SQLite database that may be in use, in a folder that the application may write."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import stat
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator

from project_answer import Refused
from project_folder import COMPANIONS, Folder, folder_of, is_same, opened, real_path
from project_names import KEPT, STAMP

SUFFIX = ".sqlite3"
PATIENCE = 10  # seconds to wait for requests that hold the database
FORMATS = 18  # where the header says, in two bytes, whether it is in WAL mode
WAL, OTHER = b"\2\2", b"\1\1"


def live_path(connection) -> Path:
    if connection.is_in_memory_db():
        raise Refused("The database is in memory.", "There is nothing that could be kept.")
    return real_path(connection.settings_dict["NAME"])


def size(connection) -> int:
    live = live_path(connection)
    with folder_of(live) as folder:
        found = (folder.checked(name) for name in with_companions(live.name))
        return sum(one.st_size for one in found if one)


def with_companions(name: str) -> list[str]:
    return [name, *(name + ending for ending in COMPANIONS)]


def dump(connection, path: Path) -> dict:
    """The copy lies in a folder of our own."""
    copy(live_path(connection), path)
    with closing(sqlite3.connect(path)) as database:
        rows = counts(database)
        done = "SELECT app || '.' || name FROM django_migrations ORDER BY 1"
        migrations = [name for (name,) in database.execute(done)] if "django_migrations" in rows else []
        encoding = database.execute("PRAGMA encoding").fetchone()[0]
    return {"database": live_path(connection).name, "server_version": sqlite3.sqlite_version, "encoding": encoding,
            "rows": rows, "applied": migrations}  # fmt: skip


def copy(source: Path, target: Path) -> None:
    """SQLite's online backup: consistent while others write, and alone in its file, without a -wal beside it."""
    with opened(source, timeout=PATIENCE) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")


def counts(database: sqlite3.Connection) -> dict:
    tables = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    quoted = [(name, name.replace('"', '""')) for (name,) in tables.fetchall()]
    return {name: database.execute(f'SELECT count(*) FROM "{safe}"').fetchone()[0] for name, safe in quoted}


def count_rows(connection) -> dict:
    with opened(live_path(connection), timeout=PATIENCE) as database:
        return counts(database)


rows_now = count_rows


def read_whole(_, path: Path) -> None:
    try:
        with opened(path, "&immutable=1") as database:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise Refused(f"The copy {path.name} is damaged: {verdict}.", "Do not use it. Nothing was touched.")


def check_restore(connection, data: Path, manifest: dict) -> None:
    read_whole(connection, data)
    check_swap(connection)
    with folder_of(live_path(connection)) as folder:
        free, needed = folder.free(), manifest.get("database_bytes", 0)
        if free < needed:
            error = f"{folder.path} has {free:,} bytes free; beside the live file {needed:,} are needed."
            raise Refused(error, "Make room.")


def check_swap(connection) -> None:
    with folder_of(live_path(connection)) as folder:
        if not folder.may_be_written():
            raise Refused(f"{folder.path} is not writable for this user.", "The swap is a rename in that folder.")


def restore(connection, data: Path, manifest: dict, promise: Callable[[str], None], _: str) -> dict:
    live = live_path(connection)
    connection.close()
    with restored_beside(live, data, manifest) as (folder, beside, rows):
        kept = swap(folder, live, beside, "before", promise)
    return {"kept": kept, "rows": rows, "left_out": [], "not_carried": []}


def preview(_, __: Path, ___: dict) -> dict:
    return {"left_out": [], "not_carried": []}


def tried(_, __: Path, ___: list[dict]) -> dict:
    return {"left_out": []}


def rehearse(connection, data: Path, manifest: dict, keep: bool) -> dict:
    """As restore, without the swap; what came of it stays only where somebody wants to look at it."""
    live = live_path(connection)
    scratch = f"{live.name}.scratch-{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}"
    with restored_beside(live, data, manifest) as (folder, beside, rows):
        if keep:
            folder.rename(beside, scratch)
    return {"scratch": scratch if keep else "", "rows": rows}


@contextmanager
def restored_beside(live: Path, data: Path, manifest: dict) -> Iterator[tuple]:
    """(folder, name, rows) of a checked copy beside the live file; gone after the block unless it was moved."""
    beside = f"{live.name}.restore"
    with folder_of(live) as folder, only_one(folder, live.name):
        try:
            remove(folder, beside)  # left by one that was killed; its journal would be played into the new one
            rows = written(folder, beside, data, manifest)
            yield folder, beside, sum(rows.values())
        finally:
            remove(folder, beside)


def written(folder: Folder, name: str, data: Path, manifest: dict) -> dict:
    """Byte for byte, into a file that nobody else has opened: SQLite would open it by a name that can be exchanged."""
    with opened(data, "&immutable=1") as database:
        rows = counts(database)
    found = hashlib.sha256()
    target = folder.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with data.open("rb") as source, os.fdopen(target, "wb") as file:
        for block in iter(lambda: source.read(1 << 20), b""):
            found.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if rows != manifest["rows"] or found.hexdigest() != manifest["sha256"]:
        raise Refused("The restored rows are not those of the manifest.", "Nothing was switched; name another one.")
    return rows


@contextmanager
def only_one(folder: Folder, name: str) -> Iterator[None]:
    """Of those that restore, rehearse or undo in this folder: the copy of one would be swapped in by another."""
    with folder.readable() as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "Wait for it, then try again."
            raise Refused(f"Another restore or drill of {name} is running.", hint, kind="locked") from None
        yield


def remove(folder: Folder, name: str) -> None:
    for one in with_companions(name):
        folder.remove(one)


def undo(connection, kept: str, promise: Callable[[str], None], _: str) -> dict:
    live = live_path(connection)
    if not is_kept(connection, kept):
        raise Refused(f"There is no {kept} beside {live.name}.", "Name the file that restore said it kept.")
    connection.close()
    with folder_of(live) as folder, only_one(folder, live.name):
        read_whole(connection, live.with_name(kept))
        return {"kept": swap(folder, live, kept, "undone", promise)}


def is_kept(connection, name: str) -> bool:
    """A swap that was cut off before its rename has left only a second name of the live file."""
    live = live_path(connection)
    if "/" in name or not name.startswith(f"{live.name}."):
        return False
    with folder_of(live) as folder:
        old, now = folder.checked(name), folder.checked(live.name)
        return old is not None and not (now and is_same(old, now))


def standing_beside(connection) -> list[tuple]:
    """(name, word, bytes) of what restores kept, and of what somebody wanted to look at."""
    live = live_path(connection)
    found = []
    with folder_of(live) as folder:
        now = folder.checked(live.name)
        for name in folder.names():
            word, there = word_of(name, live.name), folder.status(name)
            if word and there and stat.S_ISREG(there.st_mode) and not (now and is_same(there, now)):
                found.append((name, word, there.st_size))
    return found


def word_of(name: str, live: str) -> str:
    """ "" for a name that is none of ours."""
    word, _, stamp = name[len(live) + 1 :].partition("-")
    is_ours = name.startswith(f"{live}.") and word in (*KEPT, "scratch") and len(stamp) == STAMP and stamp.isdigit()
    return word if is_ours else ""


def drop_beside(connection, name: str) -> None:
    live = live_path(connection)
    if not word_of(name, live.name):
        raise Refused(f"{name!r} is not the name of a database that a restore kept.", "fab backups lists them.")
    with folder_of(live) as folder, only_one(folder, live.name):
        remove(folder, name)


def swap(folder: Folder, live: Path, incoming: str, word: str, promise: Callable[[str], None]) -> str:
    """Replace live by incoming in one rename, and keep it under another name, which is returned.

    Nobody may be inside: leaving WAL mode needs to be the only connection and folds -wal and -shm into the file, so no
    journal of the old database can be taken for one of the new. The lock is held until the rename is done.
    """
    outgoing = f"{live.name}.{word}-{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}"
    with opened(live, timeout=PATIENCE, isolation_level=None) as database:
        mode = database.execute("PRAGMA journal_mode").fetchone()[0]
        try:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise Refused(f"The database is in use: {error}.", "Stop what uses it, then try again.") from None
        made_like(folder, incoming, folder.checked(live.name), mode)
        promise(outgoing)
        folder.link(live.name, outgoing)
        folder.rename(incoming, live.name)
        with folder.readable() as descriptor:
            os.fsync(descriptor)
        database.execute("ROLLBACK")
    return outgoing


def made_like(folder: Folder, name: str, live: os.stat_result | None, mode: str) -> None:
    """On disk, and with the permissions and the journal of the live file, before it is opened as that."""
    folder.checked(name)
    descriptor = folder.open(name, os.O_RDWR)
    try:
        if live:
            os.fchmod(descriptor, live.st_mode & 0o7777)
        os.pwrite(descriptor, WAL if mode == "wal" else OTHER, FORMATS)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
