"""What others put among the files that root copies decides nothing: not what is copied, nor where from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks._offsite import challenge
from tasks.server.installed.restic import moment
from tests.local_hosts import make_stage

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("restic"), reason="needs root and restic: tests/servers/install.sh"
)
SERVER = Path(__file__).parents[4] / "tasks" / "server"


class Copy:
    """The program as a unit starts it, with every path of a server's in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.media = folder / "srv" / "shared" / "media"
        self.media.mkdir(parents=True)
        (folder / "srv" / "releases" / "one").mkdir(parents=True)
        (folder / "srv" / "releases" / "one" / "release.json").write_text('{"id": "one"}')
        (folder / "srv" / "current").symlink_to("releases/one")
        subprocess.run(["chown", "-hR", "daemon:daemon", str(folder / "srv")], check=True)
        for path in (folder, *folder.parents[:4]):
            if path.stat().st_uid == 0 and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o011)
        self.repository = folder / "repository"
        self.settings: dict[str, Any] = {
            "application": "pos",
            "repository": str(self.repository),
            "user": "daemon",
            "shared": str(folder / "srv" / "shared"),
            "shared_dirs": ["media"],
            "current": str(folder / "srv" / "current"),
            "dumps": str(folder / "srv" / "backups"),
            "journal": str(folder / "srv" / ".releases" / "journal.jsonl"),
            "keep": {"daily": 1, "weekly": 0, "monthly": 0},
            "reserve": 0,
        }

    def run(self, program: str = "offsite", given: str = "", **settings: Any) -> subprocess.CompletedProcess[str]:
        """In a mount namespace whose /var/lib, /etc/fab-releases and the like are folders of this test's own."""
        (self.folder / "settings.json").write_text(json.dumps(self.settings | settings))
        own = {
            "/etc": "etc",
            "/var/lib/fab-releases": "state",
            "/var/cache/fab-releases": "cache",
            "/var/backups": "here",
        }
        said = ["set -e"]
        for name in own.values():
            (self.folder / name).mkdir(exist_ok=True)
        for name in ("passwd", "group"):
            lines = Path("/etc", name).read_text().splitlines(keepends=True)
            (self.folder / "etc" / name).write_text("".join(one for one in lines if not one.startswith("postgres:")))
        (self.folder / "etc" / "fab-releases").mkdir(exist_ok=True)
        (self.folder / "etc" / "fab-releases" / "pos.key").write_text("a key\n")
        for path, name in own.items():
            said.append(f"mkdir -p {path}; mount --bind {self.folder / name} {path}")
        command = [sys.executable, "-I", "-S", "-X", "utf8", str(SERVER / "__main__.py"), "--start", program]
        said.append(f"exec {' '.join(command)} {self.folder / 'settings.json'}")
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", "\n".join(said)],
            capture_output=True,
            text=True,
            timeout=120,
            input=given,
            check=False,
        )

    @property
    def outcome(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "state" / "pos-offsite.json").read_text())
        return told

    def restic(self, *words: str) -> str:
        environment = {**os.environ, "RESTIC_PASSWORD": "a key", "RESTIC_REPOSITORY": str(self.repository)}
        said = ["restic", "--quiet", "--no-cache", *words]
        return subprocess.run(
            said, env=environment, capture_output=True, text=True, errors="replace", check=True
        ).stdout

    def copied(self) -> set[str]:
        """Below media, in the newest."""
        lines = self.restic("ls", "latest", str(self.media)).splitlines()
        return {line.removeprefix(f"{self.media}/") for line in lines if line.startswith(f"{self.media}/")}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    made = Copy(tmp_path)
    for number in range(20):
        (made.media / f"{number}.jpg").write_text(f"upload {number}\n")
    return made


def test_no_uploaded_file_keeps_others_out_of_the_backup(copy: Copy) -> None:
    """Marks that tools know, and names that a shell, an option or a list would take for something else."""
    (copy.media / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    for name in (
        ".nobackup",
        ".no_backup",
        "--exclude=*",
        "-rf",
        "new\nline",
        "star*",
        "q?[a]",
        "$HOME",
        "!x",
        "ä\udcff",
    ):
        (copy.media / name).write_text("uploaded\n")
    done = copy.run()
    assert done.returncode == 0, done.stdout + done.stderr
    names = list(copy.media.iterdir())
    assert copy.outcome["folders"]["media"][0] == len(names) == 31
    assert {f"{number}.jpg" for number in range(20)} <= copy.copied()


def test_what_is_no_file_is_left_out_and_named(copy: Copy) -> None:
    os.mkfifo(copy.media / "pipe*")
    os.mknod(copy.media / "zero", 0o020666, os.makedev(1, 5))
    (copy.media / "pipe-like").write_text("a file\n")
    (copy.media / "passwd").symlink_to("/etc/passwd")
    with (copy.media / "huge").open("wb") as file:
        file.truncate(1 << 43)
    done = copy.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy.copied() == {*(f"{number}.jpg" for number in range(20)), "pipe-like", "passwd"}
    said = "\n".join(copy.outcome["remarks"])
    for name in ("pipe*", "zero", "huge"):
        assert name in said


def test_files_that_are_gone_fail_the_backup_and_keep_what_there_was(copy: Copy) -> None:
    assert copy.run().returncode == 0
    for path in list(copy.media.iterdir())[:15]:
        path.unlink()
    assert copy.run().returncode == 0
    assert any("media has 5 files, and had 20" in one for one in copy.outcome["remarks"])
    for path in copy.media.iterdir():
        path.unlink()
    done = copy.run()
    assert done.returncode == 1
    assert "media has no file any more; it had 20" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert len(json.loads(copy.restic("snapshots", "--json"))) == 3


def test_the_second_copy_of_a_day_takes_nothing_from_the_first(copy: Copy) -> None:
    """Only what is older than two days goes as the policy says."""
    assert copy.run().returncode == 0
    for days in (40, 3, 1):
        when = f"{datetime.now() - timedelta(days=days):%Y-%m-%d %H:%M:%S}"
        copy.restic("backup", "--host", "pos", "--tag", "fab-releases", "--time", when, str(copy.media))
    assert copy.run().returncode == 0
    ages = [datetime.now().astimezone() - moment(one["time"]) for one in json.loads(copy.restic("snapshots", "--json"))]
    assert sorted(age.days for age in ages) == [0, 0, 1]


def test_without_a_repository_files_are_copied_on_the_server_itself(copy: Copy) -> None:
    """And go along when one is named."""
    done = copy.run(repository="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy.outcome["here"] is True
    assert (copy.folder / "here" / "fab-releases" / "pos" / "config").exists()
    assert (copy.folder / "etc" / "fab-releases" / "pos.local.key").stat().st_mode & 0o777 == 0o600
    done = copy.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(copy.restic("snapshots", "--json"))) == 2
    assert copy.outcome["here"] is False


def test_a_copy_on_the_server_itself_leaves_room(copy: Copy) -> None:
    done = copy.run(repository="", reserve=1 << 60)
    assert done.returncode == 1
    assert "set [backup] repository" in done.stderr


def test_a_folder_that_leads_elsewhere_is_named(copy: Copy) -> None:
    copy.media.rename(copy.folder / "volume")
    copy.media.symlink_to(copy.folder / "volume")
    assert copy.run().returncode == 0
    assert any("media are not in this backup" in one and "symbolic link" in one for one in copy.outcome["remarks"])


def test_a_release_that_leads_elsewhere_is_read_as_its_owner_may(copy: Copy) -> None:
    """/dev/zero filled the disk, and a link to what only root may read was followed."""
    told = copy.folder / "srv" / "releases" / "one" / "release.json"
    told.unlink()
    told.symlink_to("/dev/zero")
    assert copy.run().returncode == 0
    assert not (copy.folder / "state" / "offsite" / "pos" / "release.json").exists()


def test_a_folder_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Also after its names were read; and nothing there is a device, or can be changed."""
    own = tmp_path / "own"
    (own / "sub").mkdir(parents=True)
    (own / "sub" / "file").write_text("own")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("root's")
    os.mknod(own / "zero", 0o020666, os.makedev(1, 5))
    os.chown(own, 1, 1)
    program = f"""
import os, sys
sys.path.insert(0, {str(SERVER.parents[1])!r})
from tasks.server.installed import view
view.enter([{str(own)!r} + "/sub"])
names = os.listdir({str(own)!r} + "/sub")
print(open({str(own)!r} + "/sub/file").read(), flush=True)
input()
for path in ("sub/file", "zero"):
    try:
        print("read", open({str(own)!r} + "/" + path).read(4))
    except OSError as error:
        print(error.strerror)
try:
    open({str(own)!r} + "/new", "w")
except OSError as error:
    print(error.strerror)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "own\n"
        (own / "sub").rename(own / "aside")
        (own / "sub").symlink_to(tmp_path / "secret")
        said, _ = process.communicate("\n", timeout=20)
    assert said.splitlines() == ["Too many levels of symbolic links", "Permission denied", "Read-only file system"]


def test_a_hard_link_to_somebody_elses_file_is_left_out(copy: Copy) -> None:
    (copy.folder / "srv" / "secret").write_text("root's")
    (copy.media / "linked.jpg").hardlink_to(copy.folder / "srv" / "secret")
    (copy.media / "again.jpg").hardlink_to(copy.media / "1.jpg")
    assert copy.run().returncode == 0
    assert "linked.jpg" not in copy.copied()
    assert "again.jpg" in copy.copied()
    assert any("linked.jpg" in one and "hard link" in one for one in copy.outcome["remarks"])


@pytest.mark.parametrize(("key", "found"), [("a key\n", "same"), ("another\n", "other"), ("", "unasked")])
def test_a_key_that_is_lost_or_wrong_is_noticed_and_never_travels(
    copy: Copy, tmp_path: Path, key: str, found: str
) -> None:
    here = make_stage(tmp_path)
    here = replace(here, backup=replace(here.backup, repository=str(copy.repository), key=str(tmp_path / "mine")))
    if key:
        (tmp_path / "mine").write_text(key)
    nonce, proof = challenge(here)
    assert not key or key.strip() not in nonce + proof
    copy.run()
    done = copy.run("proof", json.dumps({"nonce": nonce, "proof": proof}))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"place": str(copy.repository), "key": found, "trouble": ""}
    (copy.repository / "config").unlink()
    told = json.loads(copy.run("proof", json.dumps({"nonce": nonce, "proof": proof})).stdout)
    assert "config" in told["trouble"]
    for text in ("", "{}", json.dumps({"nonce": "short", "proof": proof})):
        assert copy.run("proof", text).returncode == 2
