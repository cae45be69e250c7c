"""Folders exchanged for what was restored beside them: whole at every moment, whichever one is the last."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.model.backup import Backup
from tasks.model.config import Environment, Host, Service, Stage
from tasks.model.errors import PreflightError
from tasks.model.machine import Part
from tasks.model.moment import at_or_before, moment
from tasks.model.server import Provision
from tasks.model.shell import script
from tasks.model.snapshot import Snapshot
from tasks.plans import snapshots as plans
from tasks.remote.snapshots import File, Piece, changed, make, missing, pieces

PROGRAM = Path(__file__).parent.parent / "templates" / "provision" / "snapshots.py"
FOLDERS = ("media", "uploads/photos")
NOW = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("snapshots_program", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "which").write_text("live")
    return {"shared": str(tmp_path), "folders": list(FOLDERS), "run": "one", "now": NOW.isoformat(), "leave_out": False}


def restored(asked: dict[str, Any], text: str = "restored") -> None:
    """What `fill` leaves."""
    beside = Path(asked["shared"], ".fab-restore")
    beside.mkdir(mode=0o700, exist_ok=True)
    for folder in FOLDERS:
        place = beside / "new" / folder.replace("/", "%")
        place.mkdir(parents=True)
        (place / "which").write_text(text)


def live(asked: dict[str, Any]) -> set[str]:
    return {Path(asked["shared"], folder, "which").read_text() for folder in FOLDERS}


def left(asked: dict[str, Any]) -> set[str]:
    return {path.name for path in Path(asked["shared"], ".fab-restore").iterdir()}


def test_going_back_works_only_once(program: ModuleType, asked: dict[str, Any]) -> None:
    restored(asked)
    program.swap(asked)
    program.finish(asked)
    assert live(asked) == {"restored"}
    for expected in ("live", "restored", "live"):
        program.swap_back(asked)
        assert live(asked) == {expected}
        assert left(asked) == {"kept"}


def test_a_folder_somebody_deleted_cannot_be_restored(program: ModuleType, asked: dict[str, Any]) -> None:
    (Path(asked["shared"]) / "media" / "which").unlink()
    (Path(asked["shared"]) / "media").rmdir()
    restored(asked)
    program.swap(asked)
    assert live(asked) == {"restored"}


def test_a_failed_restore_takes_what_an_earlier_one_kept(program: ModuleType, asked: dict[str, Any]) -> None:
    restored(asked, "first")
    program.swap(asked)
    program.finish(asked)
    asked["run"] = "two"
    restored(asked, "second")
    program.swap(asked)
    program.unswap(asked)
    assert live(asked) == {"first"}
    assert left(asked) == {"kept"}
    program.swap_back(asked)
    assert live(asked) == {"live"}


def test_an_undo_of_a_run_that_did_nothing_swaps_another_runs_folders(
    program: ModuleType, asked: dict[str, Any]
) -> None:
    restored(asked)
    program.swap(asked)
    program.unswap(asked | {"run": "another"})
    assert live(asked) == {"restored"}


class Death(BaseException):
    """kill -9, as far as one process can tell."""


def dying(real: Any, at: list[int]) -> Any:
    def call(*words: Any, **more: Any) -> Any:
        at[0] -= 1
        if at[0] < 0:
            raise Death
        return real(*words, **more)

    return call


CALLS = ("rename", "unlink", "mkdir", "fsync")


@pytest.mark.parametrize("verb", ["swap", "swap_back"])
def test_a_run_that_dies_leaves_one_folder_old_and_another_new(
    program: ModuleType, asked: dict[str, Any], verb: str
) -> None:
    """At every call that changes the disk; the next run makes all folders of one age, and the way back works."""
    deaths = 0
    for calls in range(60):
        restored(asked, "first")
        program.swap(asked)
        program.finish(asked)
        if verb == "swap":
            restored(asked, "second")
        before = live(asked)
        with pytest.MonkeyPatch.context() as patch:
            at = [calls]
            patch.setattr(program, "exchange", dying(program.exchange, at))
            for name in CALLS:
                patch.setattr(os, name, dying(getattr(os, name), at))
            try:
                getattr(program, verb)(asked)
            except Death:
                deaths += 1
            else:
                assert deaths >= 8, "it did not die where it matters"
                return
        base = program.beside(asked)
        program.tidy(asked, base)
        assert len(live(asked)) == 1, f"after {calls} calls"
        assert left(asked) <= {"kept", "about.json.part", "exchanging.json.part"}
        was = live(asked)
        program.swap_back(asked)
        assert len(live(asked)) == 1
        assert live(asked) != was
        program.swap_back(asked)
        assert live(asked) == was
        assert before
        for folder in FOLDERS:
            (Path(asked["shared"], folder) / "which").write_text("live")
        program.remove("kept", base)
    pytest.fail("it never came to its end")


LINKS = {
    "1.txt": False,
    "../other/1.txt": False,
    "deep/./1.txt": False,
    "/srv/shared/media/a": False,
    "../..": True,
    "../../.env.production": True,
    "/etc/passwd": True,
    "/srv/shared/media/../.env.production": True,
    "/srv/shared/media-of-others": True,
    "link/../../x": True,
    "": False,
}


@pytest.mark.parametrize(("target", "away"), LINKS.items())
def test_a_link_leads_out_of_its_folder(program: ModuleType, target: str, *, away: bool) -> None:
    """The link is in media/receipts. Behind another link's name, `..` may lead anywhere."""
    assert program.link_leads_away({"shared": "/srv/shared"}, "media", "receipts", target) is away


MODES = {
    "a file": ("file", 0o644, False),
    "a folder with setgid": ("dir", (1 << 31) | (1 << 22) | 0o775, False),
    "setuid": ("file", (1 << 23) | 0o755, True),
    "setgid": ("file", (1 << 22) | 0o755, True),
    "a device": ("chardev", 0o644, True),
    "a pipe": ("fifo", 0o644, True),
    "a socket": ("socket", 0o644, True),
}


@pytest.mark.parametrize("name", MODES)
def test_a_snapshot_brings_a_device_or_runs_as_root(program: ModuleType, name: str) -> None:
    kind, mode, odd = MODES[name]
    assert program.is_odd({"type": kind, "mode": mode}) is odd


@pytest.mark.parametrize("place", ["/srv/shared/media/../x", "/srv/shared/media//x", "/srv/shared/media/./x", "/a\0b"])
def test_a_path_in_a_snapshot_leaves_its_place(program: ModuleType, place: str) -> None:
    assert not program.plain(place)


def test_somebody_else_prepared_the_place_beside(program: ModuleType, asked: dict[str, Any]) -> None:
    (Path(asked["shared"]) / ".fab-restore").mkdir(mode=0o755)
    with pytest.raises(program.Refused, match="not root's alone"):
        program.beside(asked)
    (Path(asked["shared"]) / ".fab-restore").rmdir()
    (Path(asked["shared"]) / ".fab-restore").symlink_to("/tmp")
    with pytest.raises(OSError, match="fab-restore"):
        program.beside(asked)


def test_a_folder_is_a_link_or_a_disk_of_its_own(program: ModuleType, asked: dict[str, Any]) -> None:
    (Path(asked["shared"]) / "elsewhere").symlink_to("media")
    with pytest.raises(program.Refused, match="symbolic link"):
        program.exchangeable(asked["shared"], "elsewhere")
    with pytest.raises(program.Refused, match="file system of its own"):
        program.exchangeable("/", "proc")


def test_seconds_are_read_whatever_the_zone(program: ModuleType) -> None:
    said = ("2026-11-22T23:00:00.123456789+01:00", "2026-11-22T22:00:00Z", "2026-11-22T17:00:00.5-05:00")
    assert len({program.second(one) for one in said}) == 1


# --- which snapshot, which files


def test_a_newer_snapshot_than_asked_for_is_taken() -> None:
    taken = [Snapshot(str(hours), NOW - timedelta(hours=hours)) for hours in (1, 5, 30)]
    chosen = [at_or_before(taken, moment(text, NOW)) for text in ("latest", "-2h", "yesterday", "-5d")]
    assert [one and one.id for one in chosen] == ["1", "5", "30", None]


def piece(**more: Any) -> Piece:
    part = Part("sudo", "", (), script(("checked_with", "visudo", "-cqf", "/etc/sudoers.d/pos")))
    return Piece(part, (File("/etc/sudoers.d/pos", "root", "root", "440", **more),))


FOUND = {
    "as it was": ("x", "x", 0),
    "changed": ("x", "y", 1),
    "gone since": ("", "y", 1),
    "not in the snapshot": ("x", "", 0),
    "there was none, says what a restore kept": ("x", "absent", 1),
    "there was none, and there is none": ("", "absent", 0),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_file_the_snapshot_does_not_have_is_removed(name: str) -> None:
    now, then, count = FOUND[name]
    found = {"file /etc/sudoers.d/pos": now, "then file /etc/sudoers.d/pos": then}
    assert len(changed((piece(),), found)) == count
    assert missing((piece(),), found) == (("/etc/sudoers.d/pos",) if name == "not in the snapshot" else ())


def test_a_judge_is_asked_about_a_file_that_is_gone() -> None:
    assert "visudo" in make(piece(), "kept").text()
    assert "visudo" not in make(piece(gone=True), "kept").text()


def _open() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """The program is short and closes nothing: here it is called often."""
    before = _open()
    yield
    for number in _open() - before:
        try:
            os.close(int(number))
        except OSError:
            continue


def test_configuration_leaves_out_what_opens_the_repository_or_shows_a_secret() -> None:
    """Every file of ours in /etc; the key of the snapshots stays as it is, or the next restore could not read them."""
    asked = Provision(ssh=True, fail2ban=True, upgrades=True, pgbouncer=True)
    host = Host(name="one", address="203.0.113.10")
    here = Stage(
        name="production", application="pos", repository="/nowhere", deploy_to="/srv/pos", hosts=(host,),
        domain="pos.test", environment=Environment(file=".env"), shared_files=("google.json",), provision=asked,
        services={"web": Service(kind="web")}, backup=Backup(repository="/srv/vault"),
    )  # fmt: skip
    found = {file.path: file for piece in pieces(here, host, {"os": "debian 12"}) for file in piece.files}
    assert {
        *("/etc/nginx/sites-available/pos", "/etc/sudoers.d/pos", "/etc/systemd/system/pos-backup.timer"),
        *("/etc/ssh/sshd_config.d/10-fab-releases.conf", "/etc/redis/redis.conf", "/srv/pos/shared/.env"),
    } <= set(found)
    assert all(path.startswith(("/etc/", "/srv/pos/shared/")) for path in found)
    assert not [path for path in found if path.startswith("/etc/fab-releases/")]
    secret = {path for path, file in found.items() if file.secret}
    assert secret == {
        *("/etc/redis/users.acl", "/etc/redis/redis.conf", "/etc/pgbouncer/userlist.txt"),
        *("/srv/pos/shared/.env", "/srv/pos/shared/google.json"),
    }


def test_a_restored_sshd_undoes_itself_a_minute_later_unproven() -> None:
    """The way in is proved for phases of these names; it comes after services have restarted, which may take longer."""
    host = Host(name="one", address="203.0.113.10")
    here = Stage(
        name="production", application="pos", repository="/nowhere", deploy_to="/srv/pos", hosts=(host,),
        environment=Environment(file=".env"), provision=Provision(ssh=True), services={"web": Service(kind="web")},
    )  # fmt: skip
    every = pieces(here, host, {"os": "debian 12"})
    plan = plans.configuration(here, every, "wanted", "20261122-000000-0000000", "me", "")
    names = [phase.name for phase in plan.phases]
    assert "ssh" in names
    steps = [step.name for phase in plan.phases for step in phase.steps["one"]]
    assert steps[-2:] == ["ssh", "kept"]
    assert len(plan.merged().phases) == 1


@pytest.mark.parametrize("id", ["--password-command=id", "-", "", "latest", "abc", "ABCDEF01", "0123456789\n"])
def test_a_snapshot_has_no_name_that_a_command_would_take_for_something_else(id: str) -> None:
    with pytest.raises(PreflightError):
        Snapshot.from_json({"id": id, "taken": "2026-11-22T10:00:00+00:00"})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account's folder is made")
def test_a_folder_that_somebody_else_made_a_link_of_is_not_restored_into(
    program: ModuleType, asked: dict[str, Any], tmp_path: Path
) -> None:
    """On the way as well as at its end; a link of root's is followed."""
    other, real = tmp_path / "other", Path(asked["shared"])
    other.mkdir()
    (other / "srv").symlink_to(real)
    os.chown(other, 1, 1)
    (tmp_path / "srv").symlink_to(tmp_path)
    with pytest.raises(program.Refused, match="a link that somebody else may have put"):
        program.swap({**asked, "shared": str(other / "srv" / "media")})
    os.close(program.opened(str(tmp_path / "srv" / "other")))
    assert not (real / "media" / ".fab-restore").exists()
