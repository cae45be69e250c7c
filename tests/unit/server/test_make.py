"""What provisioning makes in folders of other accounts: the right thing, and never anything else."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.server import telling
from tasks.server.make import configuration, directory, file, kept, lines, secret_file, ssh_files
from tasks.server.refused import Refused
from tasks.server.values.secret import Secret
from tasks.server.values.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account's folder is made")

OTHER = "daemon"
SITE = Site("/srv/shop", "shop", "production", {}, "systemd")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIZLZYrkQBoPsk5yx4gdpeK7Sqa2q3ZEhmRF9DPIDaB5 ada@laptop"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(telling, "found", found.__setitem__)
    return found


@pytest.fixture
def own(passable: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of the other account, beside a secret of root's that stays as it is."""
    home = passable / "own"
    home.mkdir()
    entry = pwd.getpwnam(OTHER)
    os.chown(home, entry.pw_uid, entry.pw_gid)
    real = pwd.getpwnam
    there = pwd.struct_passwd((*entry[:5], str(home), entry[6]))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: there if name == OTHER else real(name))
    (passable / "victim").write_text("root's own\n")
    (passable / "victim").chmod(0o600)
    yield home
    status = (passable / "victim").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert (passable / "victim").read_text() == "root's own\n"


@pytest.fixture
def part(passable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `part` of templates/provision/parts.sh makes."""
    folder = passable / "kept"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv(kept.FOLDER, str(folder))
    return folder


def plant(how: str, path: Path) -> None:
    victim = path.parent
    while not (victim / "victim").exists():
        victim = victim.parent
    match how:
        case "link":
            path.symlink_to(victim / "victim")
        case "hard link":
            path.hardlink_to(victim / "victim")
        case "FIFO":
            os.mkfifo(path, 0o666)
        case "device":
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


HOW = ("link", "hard link", "FIFO", "device")


@pytest.mark.parametrize("how", HOW)
def test_keys_are_never_written_through_what_was_planted(own: Path, how: str) -> None:
    (own / ".ssh").mkdir()
    os.chown(own / ".ssh", *pwd.getpwnam(OTHER)[2:4])
    for name, act in (
        ("authorized_keys", lambda: ssh_files.make_keys(SITE, OTHER, OTHER, (KEY,))),
        ("known_hosts", lambda: ssh_files.make_known_hosts(SITE, OTHER, ("git.test ssh-ed25519 AAAA",))),
    ):
        path = own / ".ssh" / name
        plant(how, path)
        with pytest.raises(Refused, match=str(path)):
            act()


def test_a_home_whose_ssh_folder_is_a_link_is_refused(own: Path) -> None:
    (own / ".ssh").symlink_to(own.parent)
    with pytest.raises(Refused, match="is not a folder"):
        ssh_files.make_keys(SITE, OTHER, OTHER, (KEY,))
    assert not (own.parent / "authorized_keys").exists()


def test_keys_are_added_and_none_is_taken_away(own: Path, told: dict[str, str]) -> None:
    ssh_files.look_keys(SITE, "keys", OTHER, OTHER, (KEY,))
    listed = subprocess.run(["ssh-keygen", "-lf", "-"], input=KEY, capture_output=True, text=True, check=True).stdout
    assert told["keys"] == f"not let in: {' '.join(listed.split()[1:3])}"
    (own / ".ssh").mkdir(mode=0o755)
    (own / ".ssh/authorized_keys").write_text("# mine\nssh-rsa AAAA bob")  # root's, without an end of line
    ssh_files.make_keys(SITE, OTHER, OTHER, (KEY, ""))
    ssh_files.make_keys(SITE, OTHER, OTHER, (KEY,))
    path = own / ".ssh/authorized_keys"
    assert path.read_text() == f"# mine\nssh-rsa AAAA bob\n{KEY}\n"
    assert (path.owner(), stat.S_IMODE(path.stat().st_mode)) == (OTHER, 0o600)
    assert ((own / ".ssh").owner(), stat.S_IMODE((own / ".ssh").stat().st_mode)) == (OTHER, 0o700)
    ssh_files.look_keys(SITE, "keys", OTHER, OTHER, (KEY,))
    assert told["keys"] == ""


def test_an_account_that_is_not_there_yet_lets_nobody_in(told: dict[str, str]) -> None:
    ssh_files.look_keys(SITE, "keys", "nobody-at-all", "nobody-at-all", (KEY,))
    ssh_files.look_git_key(SITE, "git", "nobody-at-all")
    assert told["keys"].startswith("not let in")
    assert told["git"] == ""
    assert secret_file.read(SITE, "/etc/hostname", "nobody-at-all") is None


@pytest.mark.parametrize("how", HOW)
def test_variables_are_never_read_or_owned_through_what_was_planted(own: Path, how: str) -> None:
    """Read as root, they were handed to the next host; a link to /etc/shadow became deploy's."""
    plant(how, own / ".env")
    with pytest.raises(Refused, match=str(own / ".env")):
        secret_file.read(SITE, str(own / ".env"), OTHER)
    with pytest.raises(Refused, match=str(own / ".env")):
        file.make_once(SITE, str(own / ".env"), OTHER, OTHER, "640", Secret("A=1\n"))


def test_variables_that_their_account_may_not_read_are_not_made_again(own: Path) -> None:
    (own / ".env").write_text("A=1\n")
    (own / ".env").chmod(0o600)
    with pytest.raises(Refused, match=rf"{OTHER} may not read {own}/.env"):
        secret_file.read(SITE, str(own / ".env"), OTHER)
    file.make_once(SITE, str(own / ".env"), OTHER, OTHER, "640", Secret("B=2\n"))
    assert secret_file.read(SITE, str(own / ".env"), OTHER) == Secret("A=1\n")


def test_what_a_part_replaced_is_put_back(own: Path, passable: Path, part: Path, told: dict[str, str]) -> None:
    here = passable / "etc"
    here.mkdir()
    (here / "one").write_text("before")
    (here / "link").symlink_to("one")
    (own / "conf").write_text("theirs\n")
    os.chown(own / "conf", *pwd.getpwnam(OTHER)[2:4])
    file.make(SITE, str(here / "one"), "root", "root", "600", "after")
    file.make(SITE, str(here / "new/two"), "root", "root", "644", "after")
    file.make_absent(SITE, str(here / "link"))
    lines.make_last(SITE, str(own / "conf"), "ours")
    assert (own / "conf").read_text() == "theirs\n\nours\n"
    kept.put_back(SITE)
    assert (here / "one").read_text() == "before"
    assert str((here / "link").readlink()) == "one"
    assert not (here / "new/two").exists()
    assert ((own / "conf").read_text(), (own / "conf").owner()) == ("theirs\n", OTHER)


@pytest.mark.parametrize("how", HOW)
def test_nothing_is_kept_or_put_back_through_what_was_planted(
    own: Path, part: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(telling, "warn", warned.append)
    (own / "conf").write_text("theirs")
    (own / "below").mkdir()
    (own / "below/conf").write_text("theirs")
    file.make(SITE, str(own / "conf"), "root", "root", "600", "ours")
    file.make(SITE, str(own / "below/conf"), "root", "root", "600", "ours")
    (own / "conf").unlink()
    plant(how, own / "conf")
    (own / "below").rename(own / "aside")
    (own / "below").symlink_to(own.parent)
    kept.put_back(SITE)
    assert (own / "conf").read_text() == "theirs", "replaced, not followed"
    assert [line for line in warned if str(own / "below") in line]
    assert not (own.parent / "conf").exists()


def test_lines_of_ours_are_exchanged_and_others_stay(own: Path, told: dict[str, str]) -> None:
    path = own / "pg_hba.conf"
    path.write_text("local all all peer\n")
    path.chmod(0o640)
    for text in ("host one", "host two\nhost three"):
        lines.make_block(SITE, str(path), text, "shop")
        lines.look_block(SITE, "lines", str(path), "shop")
        assert told["lines"] == text
    assert path.read_text() == f"local all all peer\n{lines.BEGINS}, for shop\nhost two\nhost three\n{lines.ENDS}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_lines_of_another_stage_stay(own: Path, told: dict[str, str]) -> None:
    """Those that say of nobody whose they are go when they name us."""
    path = own / "pg_hba.conf"
    path.write_text(f'local all all peer\n{lines.BEGINS}\nhostssl all "shop" 192.0.2.1/32\n{lines.ENDS}\n')
    lines.make_block(SITE, str(path), "of the other", "shop-admin")
    lines.make_block(SITE, str(path), "ours", "shop")
    lines.make_block(SITE, str(path), "anew", "shop-admin")
    begins = lines.BEGINS
    assert path.read_text() == (
        f"local all all peer\n{begins}, for shop\nours\n{lines.ENDS}\n{begins}, for shop-admin\nanew\n{lines.ENDS}\n"
    )


@pytest.mark.parametrize("how", HOW)
def test_a_look_says_what_was_planted_and_goes_on(own: Path, told: dict[str, str], how: str) -> None:
    plant(how, own / "name")
    looks: dict[str, Callable[[str], None]] = {
        "text": lambda path: file.look(SITE, "text", path),
        "secret": lambda path: file.look_secret(SITE, "secret", path, Secret("root's own")),
        "line": lambda path: lines.look_last(SITE, "line", path, "root's own"),
        "folder": lambda path: directory.look(SITE, "folder", path),
    }
    for look in looks.values():
        look(str(own / "name"))
    assert "root's own" not in "".join(told.values()).replace(str(own), "")
    assert "as it should be" not in told["secret"]
    (own / "etc").symlink_to(own.parent)
    file.look(SITE, "below", str(own / "etc/victim"))
    assert told["below"].startswith(f"{own}/etc is a link")


def test_folders_are_made_with_those_above(own: Path, passable: Path, told: dict[str, str]) -> None:
    directory.make(SITE, str(passable / "srv/shop/shared"), OTHER, OTHER, "2775")
    directory.look(SITE, "shared", str(passable / "srv/shop/shared"))
    assert told["shared"] == f"directory, {OTHER}:{OTHER} 2775"
    assert (passable / "srv").owner() == "root"


@pytest.fixture
def trees(passable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a snapshot's files are fetched to, in `wanted`; root's alone."""
    monkeypatch.setattr(configuration, "FOLDER", str(passable / "trees"))
    place = passable / "trees/shop"
    (place / "wanted").mkdir(parents=True)
    (passable / "trees").chmod(0o700)
    return place


def in_tree(trees: Path, path: Path) -> Path:
    """As restic restores it: folders have the owners that they had."""
    place = Path(f"{trees}/wanted{path}")
    place.parent.mkdir(parents=True)
    os.chown(place.parent, *pwd.getpwnam(OTHER)[2:4])
    return place


@pytest.mark.parametrize("how", HOW)
def test_a_restored_file_is_never_read_through_what_was_sent_away(
    own: Path, trees: Path, part: Path, told: dict[str, str], how: str
) -> None:
    """A link to a file of root's, sent away by its account, must not come back as that account's."""
    path = str(own / "conf")
    plant(how, in_tree(trees, own / "conf"))
    configuration.look(SITE, "then", "wanted", path, OTHER, OTHER, "640")
    configuration.look_digest(SITE, "then digest", path, "wanted")
    assert "root's own" not in told["then"]
    with suppress(Refused):
        configuration.make(SITE, "wanted", path, OTHER, OTHER, "640")
    assert not (own / "conf").exists()


def test_a_restored_folder_that_was_sent_away_as_a_link_leads_nowhere(own: Path, trees: Path, part: Path) -> None:
    place = in_tree(trees, own / "sub")
    place.symlink_to(own.parent)
    with pytest.raises(Refused, match="is a link"):
        configuration.make(SITE, "wanted", str(own / "sub/victim"), OTHER, OTHER, "640")


@pytest.mark.parametrize("how", HOW)
def test_what_is_planted_where_a_file_is_restored_stays_nobodys_way(
    own: Path, trees: Path, part: Path, how: str
) -> None:
    in_tree(trees, own / "conf").write_text("A=1\n")
    plant(how, own / "conf")
    if how == "link":  # kept, and replaced, as what it is
        configuration.keep_all(SITE, (str(own / "conf"),))
        configuration.make(SITE, "wanted", str(own / "conf"), OTHER, OTHER, "640")
        assert (own / "conf").read_text() == "A=1\n"
        configuration.put_back(SITE, (str(own / "conf"),))
        assert (own / "conf").readlink() == own.parent / "victim"
        return
    with pytest.raises(Refused, match=str(own / "conf")):
        configuration.keep_all(SITE, (str(own / "conf"),))
    with pytest.raises(Refused, match=str(own / "conf")):
        configuration.make(SITE, "wanted", str(own / "conf"), OTHER, OTHER, "640")


def test_a_folder_exchanged_for_a_link_gets_no_restored_file(own: Path, trees: Path, part: Path) -> None:
    in_tree(trees, own / "shared/conf").write_text("A=1\n")
    (own / "shared").symlink_to(own.parent)
    with pytest.raises(Refused, match="is a link"):
        configuration.make(SITE, "wanted", str(own / "shared/conf"), OTHER, OTHER, "640")
    assert not (own.parent / "conf").exists()


def test_a_configuration_is_restored_and_put_back(own: Path, trees: Path, part: Path, told: dict[str, str]) -> None:
    conf, new = own / "conf", own / "new"
    conf.write_text("A=1\n")
    conf.chmod(0o600)
    paths = (str(conf), str(new))
    in_tree(trees, conf).write_text("A=0\n")
    Path(f"{trees}/wanted{new}").write_text("B=0\n")
    configuration.look(SITE, "then", "wanted", str(conf), OTHER, OTHER, "640")
    assert told["then"] == f"{OTHER}:{OTHER} 640\nA=0\n"
    configuration.look_digest(SITE, "secret", str(conf), "wanted")
    configuration.keep_all(SITE, paths)
    for path in paths:
        configuration.make(SITE, "wanted", path, OTHER, OTHER, "640")
    assert (conf.read_text(), conf.owner(), new.read_text()) == ("A=0\n", OTHER, "B=0\n")
    configuration.look_digest(SITE, "live", str(conf))
    assert told["secret"] == told["live"] != ""
    configuration.look_digest(SITE, "gone", str(new), "before")
    assert told["gone"] == configuration.GONE
    configuration.put_back(SITE, paths)
    assert (conf.read_text(), conf.owner(), stat.S_IMODE(conf.stat().st_mode)) == ("A=1\n", "root", 0o600)
    assert not new.exists()


def test_configuration_is_put_back_through_no_name_that_others_gave(
    own: Path, passable: Path, part: Path, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable file that its folder's owner made a link, a hard link or a FIFO of; and what --undo brings back."""
    monkeypatch.setattr(configuration, "FOLDER", str(passable / "configuration"))
    path = own / ".env"
    wanted = Path(f"{passable}/configuration/shop/wanted{path}")
    path.write_text("NOW=1\n")
    os.chown(path, *own.stat()[4:6])
    configuration.keep_all(SITE, (str(path), str(own / "missing")))
    wanted.parent.mkdir(parents=True)
    wanted.write_text("THEN=1\n")
    for plant in (
        lambda: path.symlink_to(passable / "victim"),
        lambda: path.hardlink_to(passable / "victim"),
        lambda: os.mkfifo(path),
    ):
        path.unlink()
        plant()
        configuration.look_digest(SITE, "live", str(path))
        (part / str(path).lstrip("/")).unlink(missing_ok=True)
        with suppress(Refused):
            configuration.make(SITE, "wanted", str(path), OTHER, OTHER, "640")
            assert path.read_text() == "THEN=1\n"
    path.unlink()
    configuration.make(SITE, "wanted", str(path), OTHER, OTHER, "640")
    assert path.read_text() == "THEN=1\n"
    (own / "missing").write_text("made meanwhile")
    configuration.put_back(SITE, (str(path), str(own / "missing")))
    assert path.read_text() == "NOW=1\n"
    assert path.owner() == OTHER
    assert not (own / "missing").exists()
