"""What is put back into folders of others goes there, and nowhere else, whatever they have planted."""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.server.recover import fetched, shared
from tasks.server.refused import Refused
from tasks.server.values.site import Site

from .test_files import AT_FDCWD, RENAME_EXCHANGE, ids, state

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: accounts of others have folders here")
USER, APP = "daemon", "bin"
"""Who deploys, and the application: accounts that every Debian has."""
THERE = "/srv/lost"


@dataclass
class Place:
    folder: Path
    site: Site

    @property
    def fetched(self) -> Path:
        return self.folder / "state/recovered"

    @property
    def shared(self) -> Path:
        return Path(self.site.shared)

    def restore(self) -> None:
        called = {"deploy": USER, "app": APP}
        shared.restore_files(self.site, f"{THERE}/shared", called, USER, APP, (".env",))
        shared.restore_history(self.site, f"{THERE}/backups/database", f"{THERE}/.releases", USER)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Fetched: uploads of two accounts that have other numbers here, a link, a dump, a journal."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    folder.chmod(0o755)
    deploy_to = folder / "srv"
    for path in (deploy_to, deploy_to / ".releases", deploy_to / "shared"):
        path.mkdir(0o755)
        os.chown(path, *ids(USER))
    (folder / "state").mkdir(0o755)
    (folder / "victim").write_text("root's own")
    (folder / "victim").chmod(0o600)
    before = state(folder / "victim")
    made = Place(folder, Site(str(deploy_to), "pos", "production", {}, "systemd"))
    monkeypatch.setattr(fetched, "STATE", str(folder / "state"))
    made.fetched.mkdir(0o700)
    (made.fetched / "etc").mkdir()
    (made.fetched / "etc/passwd").write_text("deploy:x:4001:4001::/home/deploy:/bin/sh\napp:x:4002:4002::/:/bin/sh\n")
    (made.fetched / "etc/group").write_text("deploy:x:4001:\napp:x:4002:\n")
    was = made.fetched / THERE[1:]
    (was / "shared/media/receipts").mkdir(parents=True)
    (was / "shared/media/receipts/1.txt").write_text("thank you")
    (was / "shared/media/first").symlink_to("receipts/1.txt")
    (was / "shared/.env").write_text("SECRET_KEY=x")
    for path in ("shared/media", "shared/media/receipts", "shared/media/receipts/1.txt", "shared/media/first"):
        os.chown(was / path, 4002, 4002, follow_symlinks=False)
    (was / "shared/media/receipts").chmod(0o2770)
    (was / "backups/database").mkdir(parents=True)
    (was / "backups/database/1.dump").write_text("dump")
    (was / ".releases").mkdir()
    (was / ".releases/journal.jsonl").write_text("{}\n")
    yield made
    assert state(folder / "victim") == before, "a file of root's was touched"
    shutil.rmtree(folder)


def test_files_come_back_with_their_owners_by_name(place: Place) -> None:
    for _ in range(2):  # a run that was cut off is said again
        place.restore()
        receipt = place.shared / "media/receipts/1.txt"
        assert receipt.read_text() == "thank you"
        assert receipt.owner() == APP
        assert stat.S_IMODE((place.shared / "media/receipts").stat().st_mode) == 0o2770
        assert (place.shared / "media/first").readlink() == Path("receipts/1.txt")
        assert (place.shared / "media/first").lstat().st_uid == pwd.getpwnam(APP).pw_uid
        assert not (place.shared / ".env").exists()
        for path in (".releases/journal.jsonl", ".releases/recovered", "backups/database/1.dump", "backups"):
            assert (place.folder / "srv" / path).owner() == USER


def plant(kind: str, path: Path, victim: Path) -> None:
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "link to a folder":
        path.symlink_to(victim.parent / "private")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "hard link", "link to a folder", "FIFO", "device", "folder"])
@pytest.mark.parametrize(
    "name",
    [
        *("shared/media", "shared/media/receipts", "shared/media/receipts/1.txt", "shared/media/first"),
        *(".releases/recovered", ".releases/journal.jsonl", "backups", "backups/database"),
    ],
)
def test_a_planted_name_leads_nowhere(place: Place, kind: str, name: str) -> None:
    """Replaced, or refused with its name; what it leads to stays as it is."""
    path, private = place.folder / "srv" / name, place.folder / "private"
    private.mkdir(0o700)
    path.parent.mkdir(parents=True, exist_ok=True)
    plant(kind, path, place.folder / "victim")
    for above in path.relative_to(place.folder / "srv").parents:
        os.chown(place.folder / "srv" / above, *ids(USER))
    message = ""
    try:
        place.restore()
    except Refused as no:
        message = no.message
    assert path.name in message or not path.is_symlink() or path.readlink() == Path("receipts/1.txt")
    assert list(private.iterdir()) == []
    assert private.stat().st_uid == 0


def test_a_folder_that_is_exchanged_meanwhile_gets_nothing_elsewhere(place: Place) -> None:
    private, media, link = place.folder / "private", place.shared / "media", place.shared / "link"
    private.mkdir(0o700)
    media.mkdir()
    link.symlink_to(private)
    stop, met = threading.Event(), set()
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2

    def exchange() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            if not link.is_symlink() and not media.is_symlink():  # it was replaced
                with suppress(OSError):
                    link.rename(link.with_name(f"gone-{number}"))
                link.symlink_to(private)
            renameat2(AT_FDCWD, os.fsencode(media), AT_FDCWD, os.fsencode(link), RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(300):
            try:
                place.restore()
                met.add("folder")
            except (Refused, OSError):
                met.add("link")
    finally:
        stop.set()
        thread.join()
    assert list(private.iterdir()) == []
    assert private.stat().st_uid == 0
    assert "folder" in met


def test_keys_are_written_by_the_account_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder of keys may lead anywhere: it reaches what the account reaches."""
    home, there = place.folder / "home", place.fetched / "home/deploy/.ssh"
    there.mkdir(parents=True)
    for name, text in {"authorized_keys": "one\ntwo\n", "id_ed25519": "key\n", "known_hosts": "a\nb"}.items():
        (there / name).write_text(text)
    (there / "planted").symlink_to("/etc/shadow")
    home.mkdir()
    os.chown(home, *ids(USER))
    entry = pwd.getpwnam(USER)
    known = pwd.struct_passwd((*entry[:5], str(home), entry[6]))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: known if name == USER else entry)
    (home / ".ssh").mkdir(0o700)
    os.chown(home / ".ssh", *ids(USER))
    (home / ".ssh/known_hosts").write_text("b")
    os.chown(home / ".ssh/known_hosts", *ids(USER))
    shared.restore_keys(place.site, "deploy", USER, logins=False)
    assert sorted(one.name for one in (home / ".ssh").iterdir()) == ["id_ed25519", "known_hosts"]
    assert (home / ".ssh/known_hosts").read_text() == "b\na\n"
    assert (home / ".ssh/id_ed25519").owner() == USER
    (home / ".ssh/authorized_keys").symlink_to(place.folder / "victim")
    with pytest.raises((Refused, OSError)):
        shared.restore_keys(place.site, "deploy", USER, logins=True)


def test_files_of_a_persons_own_follow_links_of_the_lost_server_alone(place: Place) -> None:
    tls = place.fetched / "srv/tls"
    tls.mkdir(parents=True)
    (tls / "real.pem").write_text("certificate")
    (tls / "full.pem").symlink_to("real.pem")
    (tls / "key.pem").symlink_to("/etc/shadow")
    (tls / "up.pem").symlink_to("../../../../../../../../../../etc/hostname")
    here = place.folder / "tls"
    paths = tuple(f"{place.folder}/tls/{name}.pem" for name in ("full", "key", "up", "missing"))
    lost = place.fetched / str(place.folder)[1:]
    lost.mkdir(parents=True)
    tls.rename(lost / "tls")
    shared.restore_own_files(place.site, paths)
    assert [one.name for one in here.iterdir()] == ["full.pem"]
    assert (here / "full.pem").read_text() == "certificate"
    (here / "full.pem").unlink()
    here.rmdir()
    other = place.folder / "own"
    other.mkdir()
    os.chown(other, *ids(USER))
    (other / "tls").symlink_to(place.folder)
    (lost.parent / lost.name / "own").mkdir()
    (lost / "tls").rename(lost / "own/tls")
    with pytest.raises(Refused, match="own/tls"):
        shared.restore_own_files(place.site, (f"{place.folder}/own/tls/full.pem",))


def test_variables_are_read_from_what_was_fetched_alone(place: Place) -> None:
    found = shared.read_environment(place.site, f"{THERE}/shared/.env")
    assert found is not None
    assert found.value == "SECRET_KEY=x"
    assert shared.read_environment(place.site, f"{THERE}/shared") is None
    assert shared.read_environment(place.site, f"{THERE}/missing/.env") is None
    path = place.fetched / THERE[1:] / "shared/.env"
    path.unlink()
    path.symlink_to(place.folder / "victim")
    with pytest.raises(Refused, match=r"shared/\.env"):
        shared.read_environment(place.site, f"{THERE}/shared/.env")
