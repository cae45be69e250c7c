"""The folder of an SQLite database is the application's: what lies there never leads the deploying account astray."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.application import REPOSITORY, Release, database_name, items, sqlite
from tests.meanwhile import meanwhile

sys.path.insert(0, str(REPOSITORY / "templates/release"))

import project_folder
from project_answer import Refused

KEEP = {"daily": 1, "weekly": 0, "monthly": 0}
JOURNALS = ("-wal", "-shm", "-journal")


@pytest.fixture
def shared(bare: Release, tmp_path: Path) -> tuple[Release, Path]:
    """A database in a folder that others may write, a backup of it, and what a restore kept."""
    bare.ok("migrate")
    bare.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    bare.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    (tmp_path / "shared").chmod(0o777)
    return bare, Path(database_name(bare))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Ours, and out of bounds: a database, and a folder in which nothing is to be made."""
    folder = tmp_path / "ours"
    folder.mkdir(mode=0o700)
    with closing(sqlite3.connect(folder / "secret.sqlite3")) as database, database:
        database.execute("CREATE TABLE shop_item (id integer primary key, name text)")
        database.execute("INSERT INTO shop_item (name) VALUES ('secret')")
    (folder / "authorized_keys").write_text("ssh-ed25519 ours\n")
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int, int, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns)
            for path in folder.iterdir()}  # fmt: skip


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def device(path: Path, _: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a device needs root")
    os.mknod(path, 0o020666, os.makedev(1, 5))


PLANTED = {
    "a link to a database of ours": lambda path, ours: path.symlink_to(ours / "secret.sqlite3"),
    "a link to a file of ours": lambda path, ours: path.symlink_to(ours / "authorized_keys"),
    "a link to what is not there yet": lambda path, ours: path.symlink_to(ours / "bash_profile"),
    "a second name of a database of ours": lambda path, ours: path.hardlink_to(ours / "secret.sqlite3"),
    "a FIFO": fifo,
    "a device": device,
    "a folder": lambda path, _: path.mkdir(),
}
VERBS = ("inspect", "migrate", "restore-point", "backup", "restore", "drill", "undo-restore")


def arguments(verb: str, tmp_path: Path, kept: str) -> dict[str, object]:
    place = {"directory": str(tmp_path / "backups")}
    more = {
        "restore-point": {**place, "name": "next"},
        "backup": {**place, "keep": KEEP},
        "restore": {**place, "name": "point"},
        "drill": {**place, "name": "point"},
        "undo-restore": {"kept": kept},
    }
    return more.get(verb, {})  # type: ignore[return-value]


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_where_a_database_lies_is_refused_by_its_path(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path, what: str
) -> None:
    release, live = shared
    kept = release.ok("restore", directory=str(tmp_path / "backups"), name="point")["kept"]
    live.unlink()
    PLANTED[what](live, outside)
    before, saved = state(outside), state(tmp_path / "backups")
    for verb in VERBS if "database" in what else VERBS[1:3]:
        said = release.refused(verb, **arguments(verb, tmp_path, kept))
        assert str(live) in said["error"], (verb, said)
        assert said["hint"] == "Look who put it there, and move it away. Nothing was touched."
    assert state(outside) == before
    assert state(tmp_path / "backups") == saved


def test_what_is_planted_beside_a_database_is_refused_by_its_path(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path
) -> None:
    release, live = shared
    before = state(outside)
    for verb, what, ending in zip(VERBS, PLANTED, itertools.cycle(JOURNALS), strict=False):
        place = live.with_name(live.name + ending)
        PLANTED[what](place, outside)
        said = release.refused(verb, **arguments(verb, tmp_path, "nothing"))
        assert str(place) in said["error"], (verb, said)
        place.rmdir() if what == "a folder" else place.unlink()
    assert state(outside) == before
    assert items(release) == ["kept"]


def test_a_journal_that_names_another_file_removes_none(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path
) -> None:
    """SQLite removes the file that a journal of a change of several databases names, when it has undone that."""
    release, live = shared
    name = str(outside / "authorized_keys").encode()
    page, records = 512, 0
    head = bytes.fromhex("d9d505f920a163d7") + records.to_bytes(4, "big") + bytes(4) + (1).to_bytes(4, "big")
    head += page.to_bytes(4, "big") + (4096).to_bytes(4, "big")
    tail = (0x40000000 // 4096 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big")
    tail += sum(name).to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    live.with_name(f"{live.name}-journal").write_bytes(head.ljust(page, b"\0") + tail)
    before = state(outside)
    for verb in ("inspect", "restore-point", "restore"):
        said = release.refused(verb, **arguments(verb, tmp_path, ""))
        assert "names another file, which SQLite would remove" in said["error"]
    assert state(outside) == before


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_where_a_restore_writes_is_not_followed(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path, what: str
) -> None:
    """The names that it is going to make are known beforehand."""
    release, live = shared
    before = state(outside)
    for ending in ("", *JOURNALS):
        PLANTED[what](live.with_name(f"{live.name}.restore{ending}"), outside)
    for verb in ("drill", "restore"):
        answer = release.run(verb, **arguments(verb, tmp_path, ""))
        if what == "a folder":
            assert f"{live}.restore is a folder, and should be a file" in answer.said["error"]
        else:
            assert answer.code == 0, answer.said
    assert state(outside) == before
    assert items(release) == ["kept"]


def test_a_kept_database_that_was_exchanged_is_not_swapped_back(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path
) -> None:
    release, live = shared
    kept = release.ok("restore", directory=str(tmp_path / "backups"), name="point")["kept"]
    before = state(outside)
    place = live.with_name(kept)
    place.unlink()
    place.symlink_to(outside / "secret.sqlite3")
    for more in ({}, {"look_only": True}, {"if_kept": True}):
        assert str(place) in release.refused("undo-restore", kept=kept, **more)["error"]
    for name in (f"../{outside.name}/secret.sqlite3", f"{live.name}.x/../../{outside.name}/secret.sqlite3"):
        assert "There is no" in release.refused("undo-restore", kept=name)["error"]
    assert state(outside) == before


def test_a_folder_that_is_exchanged_for_a_link_is_not_entered(bare: Release, outside: Path, tmp_path: Path) -> None:
    """Anywhere on the way to the file."""
    inner = tmp_path / "shared/data"
    inner.mkdir()
    bare.environment["DATABASE"] = sqlite(inner / "secret.sqlite3")
    bare.ok("migrate")
    (tmp_path / "shared").chmod(0o777)
    inner.rename(tmp_path / "shared/away")
    inner.symlink_to(outside)
    before = state(outside)
    for verb in ("inspect", "migrate", "restore-point"):
        assert f"{inner} is a link" in bare.refused(verb, **arguments(verb, tmp_path, ""))["error"]
    assert state(outside) == before


def test_names_that_are_exchanged_all_the_time_lead_nowhere(
    shared: tuple[Release, Path], outside: Path, tmp_path: Path
) -> None:
    release, live = shared
    away, before, chance = live.with_name("away"), state(outside), random.Random(11)

    def exchange(over: threading.Event) -> None:
        while not over.is_set():
            live.rename(away)
            live.symlink_to(outside / "secret.sqlite3")
            time.sleep(0.001)
            live.unlink()
            away.rename(live)
            time.sleep(chance.uniform(0, 0.05))

    ended = []
    with meanwhile(exchange):
        for number in range(6):
            for verb in ("restore-point", "drill"):
                named = {
                    **arguments(verb, tmp_path, ""),
                    **({"name": f"next{number}"} if verb == "restore-point" else {}),
                }
                ended.append(release.run(verb, **named).said.get("error", "done"))
    print("\n  " + "\n  ".join(sorted(set(ended))))
    assert state(outside) == before
    for path in (tmp_path / "backups").glob("*.sqlite3"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT name FROM shop_item").fetchall() == [("kept",)]


def test_a_link_of_our_own_is_followed(bare: Release, tmp_path: Path) -> None:
    """As the one from a release to what releases share."""
    (bare.root / "data").symlink_to(tmp_path / "shared")
    bare.environment["DATABASE"] = sqlite(bare.root / "data/db.sqlite3")
    bare.ok("migrate")
    bare.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    bare.ok("restore-point", directory=str(tmp_path / "backups"), name="point")
    bare.sql("PRAGMA journal_mode = WAL")
    kept = bare.ok("restore", directory=str(tmp_path / "backups"), name="point")["kept"]
    bare.ok("undo-restore", kept=kept)
    assert items(bare) == ["kept"]
    assert bare.sql("PRAGMA journal_mode") == ["wal"]
    assert (tmp_path / "shared/db.sqlite3").is_file()


@pytest.mark.parametrize("what", list(PLANTED)[:4])
def test_a_name_that_is_exchanged_between_our_look_and_that_of_sqlite_is_noticed(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    live = folder / "db.sqlite3"
    with closing(sqlite3.connect(live)) as database, database:
        database.execute("CREATE TABLE own (id int)")
    before, connect = state(outside), sqlite3.connect

    def late(*words: object, **how: object) -> sqlite3.Connection:
        live.unlink()
        PLANTED[what](live, outside)
        opened = connect(*words, **how)  # type: ignore[call-overload]
        live.unlink()
        return opened  # type: ignore[no-any-return]

    monkeypatch.setattr(sqlite3, "connect", late)
    with pytest.raises((Refused, sqlite3.OperationalError)), project_folder.opened(live):
        pytest.fail("it was opened")
    assert state(outside) == before
