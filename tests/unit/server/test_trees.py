"""A tree is given away or copied without anything outside of it being touched, read or waited for."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.server import accounts, adopt, telling, trees
from tasks.server.make import archive_folder
from tasks.server.refused import Refused
from tasks.server.values.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: trees of other accounts are made")

SITE = Site("/srv/shop", "shop", "production", {}, "systemd")
READER, WRITER = "daemon", "games"


def own(path: Path, account: str) -> None:
    entry = pwd.getpwnam(account)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.fixture
def place(passable: Path) -> Iterator[Path]:
    """A folder with one for each account, and a secret of root's beside them that stays as it is."""
    for account in (READER, WRITER):
        (passable / account).mkdir()
        own(passable / account, account)
    (passable / "victim").write_text("root's own")
    (passable / "victim").chmod(0o600)
    yield passable
    status = (passable / "victim").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)


@pytest.fixture
def tree(place: Path) -> Path:
    """What an application has, and what somebody planted in it."""
    top = place / READER
    for name, text in {
        "app/manage.py": "x",
        "app/media/a.png": "png",
        "app/.git/config": "",
        "app/.current.1": "",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / "app/manage.py").chmod(0o755)
    (top / "app/to").symlink_to("manage.py")
    (top / "app/shadow").symlink_to(place / "victim")
    (top / "app/etc").symlink_to(place)
    (top / "app/hard").hardlink_to(place / "victim")
    os.mkfifo(top / "app/fifo")
    os.mknod(top / "app/zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    for path in [top, *top.rglob("*")]:
        if not path.is_symlink() and path.name != "hard":
            own(path, READER)
    return top / "app"


def test_a_copy_reads_and_writes_with_the_rights_of_others(place: Path, tree: Path) -> None:
    (tree / "hard").unlink()
    target = place / WRITER / "release"
    left = trees.copy(str(tree), str(target), READER, WRITER, WRITER, (".git", "media", ".current.*"))
    assert sorted(left) == [f"{tree}/fifo", f"{tree}/zero"]
    assert names(target) == ["etc", "manage.py", "shadow", "to"]
    assert str((target / "shadow").readlink()) == str(place / "victim"), "a link stays one"
    made = target / "manage.py"
    assert (made.read_text(), made.owner(), made.group(), stat.S_IMODE(made.stat().st_mode)) == (
        *("x", WRITER, WRITER),
        0o755,
    )
    assert made.stat().st_mtime == pytest.approx((tree / "manage.py").stat().st_mtime, abs=0.01)


def test_what_the_owner_may_not_read_is_named_and_not_copied(place: Path, tree: Path) -> None:
    """A second name of a file of root's is no way to it."""
    with pytest.raises(Refused, match=f"{READER} may not read {tree}/hard"):
        trees.copy(str(tree), str(place / WRITER / "release"), READER, WRITER, WRITER, ())


def test_a_copy_is_not_written_where_its_account_may_not(place: Path, tree: Path) -> None:
    (tree / "hard").unlink()
    with pytest.raises(Refused, match="Permission denied"):
        trees.copy(str(tree), str(place / "mine"), READER, WRITER, WRITER, ())
    assert not (place / "mine").exists()


def test_only_what_is_in_a_tree_is_given_away(place: Path, tree: Path) -> None:
    left = trees.give(str(tree), WRITER, WRITER, shared=True)
    assert sorted(left) == [f"{tree}/fifo", f"{tree}/hard", f"{tree}/zero"]
    media = tree / "media"
    assert (media.owner(), stat.S_IMODE(media.stat().st_mode)) == (WRITER, 0o2775)
    assert (stat.S_IMODE((media / "a.png").stat().st_mode), (media / "a.png").owner()) == (0o664, WRITER)
    assert (tree / "to").lstat().st_uid == 0


def test_folders_without_end_end(place: Path, tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(Refused, match="more than 200 folders"):
        trees.give(str(tree), WRITER)


# ---- adopting


@pytest.fixture
def site(place: Path) -> Site:
    """deploy_to is the writer's."""
    (place / WRITER / "shared").mkdir()
    own(place / WRITER / "shared", WRITER)
    return Site(str(place / WRITER), "shop", "production", {}, "systemd")


def test_a_folder_is_moved_and_moved_back(place: Path, tree: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "warn", lambda _: None)
    for _ in range(2):
        adopt.take_folder(site, str(tree), "media", READER, WRITER)
        assert str((tree / "media").readlink()) == f"{site.shared}/media"
        assert (Path(site.shared) / "media/a.png").read_text() == "png"
    adopt.leave_folder(site, str(tree), "media")
    assert not (tree / "media").is_symlink()
    assert not os.path.lexists(f"{site.shared}/media")


def test_a_folder_is_never_moved_through_a_planted_link(place: Path, tree: Path, site: Site) -> None:
    (place / "roots").mkdir()
    (place / "roots/media").mkdir()
    (Path(site.shared) / "deep").symlink_to(place / "roots")
    (tree / "deep").mkdir()
    (tree / "deep/media").mkdir()
    with pytest.raises(Refused, match=f"{site.shared}/deep is a link"):
        adopt.take_folder(site, str(tree), "deep/media", READER, WRITER)
    with pytest.raises(Refused, match=f"{tree}/etc is a link"):
        adopt.take_folder(site, str(tree), "etc/roots", READER, WRITER)
    assert names(place / "roots") == ["media"]


@pytest.mark.parametrize("name", ["shadow", "hard", "fifo", "zero"])
def test_variables_are_adopted_by_whose_they_are(place: Path, tree: Path, site: Site, name: str) -> None:
    with pytest.raises(Refused, match=f"{tree}/{name}"):
        adopt.take_file(site, str(tree), name, WRITER, WRITER)
    assert not os.path.lexists(f"{site.shared}/{name}")
    adopt.take_file(site, str(tree), "manage.py", WRITER, WRITER)
    made = Path(site.shared) / "manage.py"
    assert (made.read_text(), made.owner(), stat.S_IMODE(made.stat().st_mode)) == ("x", WRITER, 0o640)


def test_git_hears_of_our_folders_by_its_owner(place: Path, tree: Path, site: Site) -> None:
    (tree / ".git/info").mkdir()
    own(tree / ".git/info", READER)
    adopt.ignore(site, str(tree), ("current", "releases"))
    adopt.ignore(site, str(tree), ("current", "releases"))
    path = tree / ".git/info/exclude"
    assert (path.read_text(), path.owner()) == ("/current\n/releases\n", READER)
    path.unlink()
    path.symlink_to(place / "victim")
    with pytest.raises(Refused, match=str(path)):
        adopt.ignore(site, str(tree), ("staging",))


def test_two_accounts_work_at_once() -> None:
    reading, writing = os.pipe()
    first = accounts.begin_as(READER, lambda: os.read(reading, 10).decode())
    second = accounts.begin_as(WRITER, lambda: os.write(writing, b"hello"))
    assert (second(), first()) == (5, "hello")
    os.close(reading)
    os.close(writing)


def test_an_archive_that_outlived_its_server_is_given_to_postgres(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_folder, "OWNER", WRITER)
    folder = place / READER
    archive_folder.own(SITE, str(folder))
    assert folder.owner() == READER, "there is no archive in it"
    info = folder / "archive/main/archive.info"
    info.parent.mkdir(parents=True)
    info.write_text("x")
    archive_folder.own(SITE, str(folder))
    assert (folder.owner(), info.owner()) == (WRITER, WRITER)
    os.chown(info, 0, 0)
    (folder / "passwd").hardlink_to(place / "victim")
    with pytest.raises(Refused, match=f"{folder}/passwd: it is no file with one name"):
        archive_folder.own(SITE, str(folder))
