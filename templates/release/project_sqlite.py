"""Copies, restores and swaps an SQLite database that may be in use."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator

from project_answer import Refused
from project_names import KEPT, STAMP

SUFFIX = ".sqlite3"
PATIENCE = 10  # seconds to wait for requests that hold the database


def live_path(connection) -> Path:
    if connection.is_in_memory_db():
        raise Refused("The database is in memory.", "There is nothing that could be kept.")
    return Path(os.path.realpath(connection.settings_dict["NAME"]))


def size(connection) -> int:
    return sum(path.stat().st_size for path in with_journals(live_path(connection)) if path.exists())


def with_journals(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal"))]


def dump(connection, path: Path) -> dict:
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
    with closing(sqlite3.connect(source, timeout=PATIENCE)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")


def counts(database: sqlite3.Connection) -> dict:
    tables = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    quoted = [(name, name.replace('"', '""')) for (name,) in tables.fetchall()]
    return {name: database.execute(f'SELECT count(*) FROM "{safe}"').fetchone()[0] for name, safe in quoted}


def count_rows(connection) -> dict:
    with closing(sqlite3.connect(live_path(connection), timeout=PATIENCE)) as database:
        return counts(database)


rows_now = count_rows


def read_whole(_, path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise Refused(f"The copy {path.name} is damaged: {verdict}.", "Do not use it. Nothing was touched.")


def check_restore(connection, data: Path, manifest: dict) -> None:
    read_whole(connection, data)
    check_swap(connection)
    folder = live_path(connection).parent
    status = os.statvfs(folder)
    free, needed = status.f_bavail * status.f_frsize, manifest.get("database_bytes", 0)
    if free < needed:
        raise Refused(f"{folder} has {free:,} bytes free; beside the live file {needed:,} are needed.", "Make room.")


def check_swap(connection) -> None:
    folder = live_path(connection).parent
    if not os.access(folder, os.W_OK):
        raise Refused(f"{folder} is not writable for this user.", "The swap is a rename in that folder.")


def restore(connection, data: Path, manifest: dict, promise: Callable[[str], None], _: str) -> dict:
    live = live_path(connection)
    connection.close()
    with restored_beside(live, data, manifest) as (beside, rows):
        kept = swap(live, beside, "before", promise)
    return {"kept": kept.name, "rows": rows, "left_out": [], "not_carried": []}


def preview(_, __: Path, ___: dict) -> dict:
    return {"left_out": [], "not_carried": []}


def tried(_, __: Path, ___: list[dict]) -> dict:
    return {"left_out": []}


def rehearse(connection, data: Path, manifest: dict, keep: bool) -> dict:
    """As restore, without the swap; what came of it stays only where somebody wants to look at it."""
    live = live_path(connection)
    scratch = live.with_name(f"{live.name}.scratch-{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}")
    with restored_beside(live, data, manifest) as (beside, rows):
        if keep:
            os.replace(beside, scratch)
    return {"scratch": scratch.name if keep else "", "rows": rows}


@contextmanager
def restored_beside(live: Path, data: Path, manifest: dict) -> Iterator[tuple]:
    """(path, rows) of a checked copy beside the live file; gone after the block unless it was moved."""
    beside = live.with_name(f"{live.name}.restore")
    with only_one(live):
        try:
            remove(beside)  # left by one that was killed; its journal would be played into the new one
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            copy(data, beside)
            with closing(sqlite3.connect(beside)) as database:
                rows = counts(database)
            if rows != manifest["rows"]:
                hint = "Nothing was switched; name another one."
                raise Refused("The restored rows are not those of the manifest.", hint)
            yield beside, sum(rows.values())
        finally:
            remove(beside)


@contextmanager
def only_one(live: Path) -> Iterator[None]:
    """Of those that restore, rehearse or undo in this folder: the copy of one would be swapped in by another."""
    folder = os.open(live.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        hint = "Wait for it, then try again."
        raise Refused(f"Another restore or drill of {live.name} is running.", hint, kind="locked") from None
    finally:
        os.close(folder)


def remove(database: Path) -> None:
    for path in with_journals(database):
        path.unlink(missing_ok=True)


def undo(connection, kept: str, promise: Callable[[str], None], _: str) -> dict:
    live = live_path(connection)
    if not is_kept(connection, kept):
        raise Refused(f"There is no {kept} beside {live.name}.", "Name the file that restore said it kept.")
    connection.close()
    old = live.with_name(kept)
    with only_one(live):
        read_whole(connection, old)
        return {"kept": swap(live, old, "undone", promise).name}


def is_kept(connection, name: str) -> bool:
    """A swap that was cut off before its rename has left only a second name of the live file."""
    live = live_path(connection)
    old = live.parent / name
    return old.parent == live.parent and name.startswith(f"{live.name}.") and old.exists() and not old.samefile(live)


def standing_beside(connection) -> list[tuple]:
    """(name, word, bytes) of what restores kept, and of what somebody wanted to look at."""
    live = live_path(connection)
    found = []
    for path in live.parent.iterdir():
        word, _, stamp = path.name[len(live.name) + 1 :].partition("-")
        if path.name.startswith(f"{live.name}.") and word in (*KEPT, "scratch") and len(stamp) == STAMP:
            found += (
                [(path.name, word, path.stat().st_size)] if stamp.isdigit() and is_kept(connection, path.name) else []
            )
    return found


def drop_beside(connection, name: str) -> None:
    live = live_path(connection)
    with only_one(live):
        remove(live.with_name(name))


def swap(live: Path, incoming: Path, word: str, promise: Callable[[str], None]) -> Path:
    """Replace live by incoming in one rename, and keep it under another name.

    Nobody may be inside: leaving WAL mode needs to be the only connection and folds -wal and -shm into the file, so no
    journal of the old database can be taken for one of the new. The lock is held until the rename is done.
    """
    outgoing = live.with_name(f"{live.name}.{word}-{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}")
    with closing(sqlite3.connect(live, timeout=PATIENCE, isolation_level=None)) as database:
        mode = database.execute("PRAGMA journal_mode").fetchone()[0]
        try:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise Refused(f"The database is in use: {error}.", "Stop what uses it, then try again.") from None
        with incoming.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(incoming, live.stat().st_mode & 0o7777)
        promise(outgoing.name)
        os.link(live, outgoing)
        os.replace(incoming, live)
        database.execute("ROLLBACK")
    with closing(sqlite3.connect(live, timeout=PATIENCE)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
    return outgoing
