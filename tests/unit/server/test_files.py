"""Nobody makes root, or another account, write, own or read a file that is not theirs."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.server import accounts, files
from tasks.server.refused import Refused

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account's folder is made")

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <linux/fcntl.h>, <linux/fs.h>
OTHER = "daemon"
"""An account that every Debian has."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of the other account, below one of root's, with a file of root's beside it to be attacked."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        if path.stat().st_uid == 0:
            path.chmod(path.stat().st_mode | 0o011)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, *ids(OTHER))
    (tmp_path / "victim").write_text("root's own")
    (tmp_path / "victim").chmod(0o600)
    before = state(tmp_path / "victim")
    yield own
    assert state(tmp_path / "victim") == before, "a file of root's was touched"


def ids(account: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(account)
    return entry.pw_uid, entry.pw_gid


def state(path: Path) -> tuple[int, int, int, bytes]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), path.read_bytes()


def plant_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "victim")


def plant_hard_link(path: Path) -> None:
    path.hardlink_to(path.parent.parent / "victim")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def plant_folder(path: Path) -> None:
    path.mkdir()


PLANTS = [plant_link, plant_hard_link, plant_fifo, plant_device, plant_folder]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_name_is_never_owned_or_read(folder: Path, plant: Callable[[Path], None]) -> None:
    plant(folder / "name")
    for act in (lambda path: files.own(path, OTHER, OTHER, 0o640), files.read):
        with pytest.raises(Refused, match=str(folder / "name")):
            act(str(folder / "name"))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_name_is_replaced_without_being_followed(folder: Path, plant: Callable[[Path], None]) -> None:
    plant(folder / "name")
    if plant is plant_folder:
        with pytest.raises(Refused, match="is a folder"):
            files.replace(str(folder / "name"), b"ours", OTHER, OTHER, 0o640)
        return
    files.replace(str(folder / "name"), b"ours", OTHER, OTHER, 0o640)
    assert state(folder / "name") == (*ids(OTHER), 0o640, b"ours")
    assert [one.name for one in folder.iterdir()] == ["name"]


def test_a_folder_that_is_a_link_is_refused_by_name(folder: Path) -> None:
    (folder / "etc").symlink_to(folder.parent)
    for act in (
        lambda: files.make_folder(str(folder / "etc"), OTHER, OTHER, 0o755),
        lambda: files.replace(str(folder / "etc" / "victim"), b"", OTHER, OTHER, 0o600),
        lambda: files.own(str(folder / "etc" / "victim"), OTHER, OTHER, 0o600),
        lambda: files.remove(str(folder / "etc" / "victim")),
        lambda: files.make_folders(str(folder / "etc" / "a" / "b"), OTHER, OTHER, 0o755),
    ):
        with pytest.raises(Refused, match=str(folder / "etc")):
            act()


def test_links_that_root_made_are_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "to").symlink_to("own")
    (tmp_path / "absolute").symlink_to(tmp_path / "to")
    (tmp_path / "around").symlink_to("around")
    files.replace(str(tmp_path / "absolute" / "name"), b"x", OTHER, OTHER, 0o644)
    assert (folder / "name").read_bytes() == b"x"
    with pytest.raises(OSError, match="Too many levels"):
        files.read(str(tmp_path / "around" / "name"))


def test_a_folder_that_is_exchanged_meanwhile_gives_nothing_away(tmp_path: Path, folder: Path) -> None:
    """By name, an exchange won on the first tries; by descriptor none of some thousand does."""
    (folder / "real").mkdir()
    (tmp_path / "private").mkdir(mode=0o700)
    (folder / "link").symlink_to(tmp_path / "private")
    stop = threading.Event()
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2

    def exchange() -> None:
        names = (os.fsencode(folder / "real"), os.fsencode(folder / "link"))
        while not stop.is_set():
            assert renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0

    thread = threading.Thread(target=exchange)
    thread.start()
    made = refused = 0
    try:
        for _ in range(3000):
            try:
                files.make_folder(str(folder / "real"), OTHER, OTHER, 0o755)
                made += 1
            except (Refused, FileNotFoundError):
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert (tmp_path / "private").stat().st_uid == 0
    assert made, "no try met the folder itself"
    assert refused, "no try met the link: the exchange was too slow to show anything"


def test_a_file_appears_whole_or_not_at_all(folder: Path) -> None:
    with pytest.raises(Refused, match="no account no-such-account"):
        files.replace(str(folder / "name"), b"x" * 1000, "no-such-account", OTHER, 0o644)
    assert list(folder.iterdir()) == []


def test_what_has_no_end_is_not_read_into_memory(folder: Path) -> None:
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused, match="larger than"):
        files.read(str(folder / "large"), limit=1000)


def test_only_folders_that_nobody_else_can_exchange_are_ours_alone(tmp_path: Path, folder: Path) -> None:
    assert files.is_ours_alone(str(tmp_path))
    assert not files.is_ours_alone(str(folder))
    (folder / "root").mkdir()
    assert not files.is_ours_alone(str(folder / "root")), "the account can exchange it"
    assert not files.is_ours_alone("/tmp"), "anybody makes names there"
    assert not files.is_ours_alone(str(tmp_path / "missing"))


# ---- another account's work


def test_work_for_another_account_has_that_accounts_rights_alone(folder: Path) -> None:
    def work() -> object:
        with pytest.raises(PermissionError):
            (folder.parent / "victim").read_bytes()
        (folder / "mine").write_text("")
        return [os.getresuid(), os.getresgid(), os.getgroups(), os.environ["USER"], os.environ["HOME"]]

    user, group = ids(OTHER)
    told = accounts.run_as(OTHER, work)
    assert told == ((user,) * 3, (group,) * 3, (group,), OTHER, "/usr/sbin")
    assert (folder / "mine").stat().st_uid == user
    assert os.geteuid() == 0


def test_a_refusal_and_a_fault_come_back_from_the_other_account() -> None:
    def refuse() -> None:
        raise Refused("not this", "do that")

    with pytest.raises(Refused, match="not this") as no:
        accounts.run_as(OTHER, refuse)
    assert no.value.hint == "do that"
    with pytest.raises(Refused, match="ZeroDivisionError"):
        accounts.run_as(OTHER, lambda: 1 / 0)
    with pytest.raises(Refused, match="ended early"):
        accounts.run_as(OTHER, lambda: os._exit(3))
    with pytest.raises(Refused, match="no account nobody-at-all"):
        accounts.run_as("nobody-at-all", lambda: None)
