"""The sandbox is what a newcomer meets first: it must work as the README says, and survive what newcomers do to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runbook import typed

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[1]
GIT = ("git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")


LEFT_OUT = ("GITHUB_", "GITLAB_", "MAKE", "PYTHONDONTWRITEBYTECODE")


@dataclass
class Checkout:
    """A clone of this repository as a newcomer has it, on a port of its own."""

    folder: Path
    port: int

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def fab(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run(".venv/bin/fab", *words, code=code)

    def commit(self, path: str = "README.md", text: str = "\n") -> str:
        """A new commit that adds `text` to the example's file `path`."""
        file = self.folder / "examples" / "pos" / path
        file.write_text(file.read_text() + text)
        self.run(*GIT, "commit", "--quiet", "--all", "--message", "A change")
        return self.run("git", "rev-parse", "--short=7", "HEAD").stdout.strip()

    def undo_commit(self) -> None:
        self.run("git", "reset", "--quiet", "--hard", "HEAD~1")

    def live(self) -> str:
        return (self.folder / ".sandbox" / "current").readlink().name

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
            return str(answer.read().decode())

    def serves(self, id: str) -> bool:
        return f"release <code>{id}</code>" in self.page()

    def processes(self) -> list[int]:
        """Whose command line or open log names this folder."""
        return [pid for pid in pids() if str(self.folder / ".sandbox") in command_line(pid)]


def variables() -> dict[str, str]:
    told = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    person = {"GIT_AUTHOR_NAME": "Somebody", "GIT_AUTHOR_EMAIL": "somebody@example.com"}
    return told | {"CI": ""} | person | {name.replace("AUTHOR", "COMMITTER"): text for name, text in person.items()}


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def within(seconds: float, true: Callable[[], object]) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def clone(folder: Path) -> Checkout:
    """The tracked files as they are now, committed; .venv is the one that runs the tests."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    made = Checkout(folder, free_port())
    set_port(made)
    for words in (
        ("init", "--quiet"),
        ("add", "--all", "--", ".", ":!.venv"),
        ("commit", "--quiet", "--message", "One"),
    ):
        made.run(*GIT, *words)
    return made


def set_port(checkout: Checkout) -> None:
    file = checkout.folder / "releases.toml"
    file.write_text(re.sub(r"^port = \d+(?=  .*127)", f"port = {checkout.port}", file.read_text(), flags=re.MULTILINE))
    assert f"port = {checkout.port} " in file.read_text()


def end(checkout: Checkout) -> None:
    """What a test left running: deleting the folder must be enough."""
    configured = checkout.folder / ".sandbox/.releases/supervisor/supervisord.conf"
    sockets = re.findall(
        r"^serverurl=unix://(.*)/", configured.read_text() if configured.exists() else "", re.MULTILINE
    )
    shutil.rmtree(checkout.folder)
    assert within(60, lambda: not checkout.processes()), [command_line(pid) for pid in checkout.processes()]
    for folder in sockets:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Deployed by the commands of the README, in their order."""
    made = clone(tmp_path_factory.mktemp("checkout") / "fab-releases")
    yield made
    end(made)


def test_the_commands_of_the_readme_do_what_it_says(checkout: Checkout) -> None:
    (first, *more) = typed(ROOT / "README.md", "console")
    assert first[-1] == "make demo"
    assert len(more) == 1
    demo = checkout.run("make", "--old-file=.venv/.runs", "demo")
    begun = checkout.live()
    assert checkout.serves(begun)
    assert f"http://127.0.0.1:{checkout.port}/" in demo.stderr
    assert re.findall(r"^  (\.venv/bin/fab \w+) ", demo.stdout, re.MULTILINE) == [
        f".venv/bin/fab {verb}" for verb in ("status", "deploy", "rollback", "stop")
    ]
    seen = []
    for line in more[0]:
        done = checkout.run("bash", "-c", line)
        seen.append((line, checkout.live(), done.stdout + done.stderr))
    lives = [live for line, live, _ in seen if line.endswith((" deploy", " rollback"))]
    assert len(lives) == 2
    assert lives[0] != begun
    assert lives[1] == begun
    assert [begun in text for line, _, text in seen if line.endswith(" status")] == [True]
    assert checkout.serves(begun)


def test_a_second_deploy_of_the_same_commit_says_so(checkout: Checkout) -> None:
    checkout.fab("deploy")
    live = checkout.live()
    assert "is live already" in checkout.fab("deploy").stderr
    assert checkout.live() == live


def test_a_change_that_is_not_committed_is_not_silently_missing(checkout: Checkout) -> None:
    file = checkout.folder / "examples/pos/README.md"
    file.write_text(file.read_text() + "\n")
    assert "not committed" in checkout.fab("deploy").stderr
    checkout.run("git", "checkout", "--quiet", "examples/pos/README.md")
    assert "not committed" not in checkout.fab("deploy").stderr


def test_what_an_operator_asks_is_answered(checkout: Checkout) -> None:
    live = checkout.live()
    assert re.search(rf"web +{live} +active", checkout.fab("status").stdout)
    told = json.loads(checkout.fab("releases", "--json").stdout)["hosts"]["here"]
    assert told["current"] == live
    assert [one["state"] for one in told["releases"] if one["id"] == live] == ["live"]
    assert "Listening at" in checkout.fab("logs").stdout
    assert "[X]  sales.0001_initial" in checkout.fab("manage", "showmigrations --plan").stdout
    assert checkout.fab("manage", "no-such-command", code=None).returncode == 1
    assert "ready to deploy" in checkout.fab("check").stdout
    assert live in checkout.fab("history").stdout


def test_stopped_is_stopped_and_started_is_back(checkout: Checkout) -> None:
    checkout.fab("stop")
    assert checkout.processes() == []
    with pytest.raises(urllib.error.URLError):
        checkout.page()
    checkout.fab("start")
    assert checkout.serves(checkout.live())


def test_a_release_that_does_not_start_never_gets_a_visitor(checkout: Checkout) -> None:
    live = checkout.live()
    checkout.commit("pos/urls.py", "\nimport no_such_module\n")
    done = checkout.fab("deploy", code=1)
    assert "no_such_module" in done.stderr
    assert checkout.live() == live
    assert checkout.serves(live)
    checkout.undo_commit()


@pytest.mark.parametrize("moment", ["Collect static files", "Ask its health"])
def test_a_deploy_killed_on_the_way_does_not_stand_in_the_way(checkout: Checkout, moment: str) -> None:
    before = checkout.live()
    wanted = checkout.commit()
    with subprocess.Popen(
        [".venv/bin/fab", "deploy", "--json"],
        cwd=checkout.folder,
        env=variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout
        for line in killed.stdout:
            event = json.loads(line)
            if event.get("title") == moment and event["event"] == "step_started":
                break
        else:
            pytest.fail(f"no step {moment}")
        killed.send_signal(signal.SIGKILL)
    assert checkout.serves(before)
    checkout.fab("deploy", "--wait", "100s")
    assert checkout.live().endswith(wanted)
    assert checkout.serves(checkout.live())


def test_a_current_that_somebody_removed_comes_back_and_nothing_is_stopped(checkout: Checkout) -> None:
    live, place = checkout.live(), checkout.folder / ".sandbox" / "current"
    before = set(checkout.processes())
    for target in ("", "shared", "releases/20200101-000000-0000000"):
        place.unlink()
        if target:
            place.symlink_to(target)
        else:
            assert "current does not lead to the release that was" in checkout.fab("status", code=None).stdout
            assert f"current does not lead to {live}" in checkout.fab("check", code=4).stdout
        told = checkout.fab("repair").stderr
        assert f"put back to {live}, which was live before" in told
        assert checkout.live() == live
        assert checkout.serves(live)
    assert set(checkout.processes()) == before
    place.unlink()
    assert "setting it right first" in checkout.fab("deploy").stderr
    assert checkout.serves(checkout.live())
    assert "put back" not in checkout.fab("repair").stderr


def test_a_package_that_went_bad_on_the_disk_is_named_and_mended(checkout: Checkout) -> None:
    [bad] = (checkout.folder / ".sandbox/current/.venv").glob("lib/python*/site-packages/django/utils/text.py")
    good = bad.read_bytes()
    bad.parent.chmod(0o755)
    bad.unlink()  # not the file in the cache of whoever runs the tests
    bad.write_bytes(good[: len(good) // 2])
    told = checkout.fab("check", code=4).stdout
    assert "environment: django: django/utils/text.py is not what the package contains" in told
    checkout.fab("deploy", "--force")
    assert checkout.serves(checkout.live())
    [mended] = (checkout.folder / ".sandbox/current/.venv").glob("lib/python*/site-packages/django/utils/text.py")
    assert mended.read_bytes() == good
    assert "environment: all files are as their packages say" in checkout.fab("check", code=0).stdout


def test_a_killed_supervisor_is_brought_back(checkout: Checkout) -> None:
    live = checkout.live()
    (pid,) = [one for one in checkout.processes() if "bin/supervisord -c" in command_line(one)]
    os.kill(pid, signal.SIGKILL)
    assert within(20, lambda: not Path(f"/proc/{pid}").exists())
    checkout.fab("deploy")
    assert checkout.live() == live
    assert checkout.serves(live)
    masters = [one for one in checkout.processes() if "bin/supervisord -c" in command_line(one)]
    assert len(masters) == 1
    assert len([one for one in checkout.processes() if "relay.py" in command_line(one)]) == 1


def test_a_database_file_that_is_in_use_cannot_be_put_back(checkout: Checkout) -> None:
    """SQLite: what serves is stopped for the swap and started again, forth and back."""
    database = checkout.folder / ".sandbox/shared/data/db.sqlite3"
    checkout.fab("backup")
    before = database.stat().st_ino
    checkout.fab("restore-db", "--date", "latest", "--yes")
    assert database.stat().st_ino != before
    assert checkout.serves(checkout.live())
    checkout.fab("restore-db", "--undo", "--yes")
    assert database.stat().st_ino == before
    assert checkout.serves(checkout.live())


def test_another_port_in_the_file_is_taken_up(checkout: Checkout) -> None:
    old, checkout.port = checkout.port, free_port()
    set_port(checkout)
    checkout.fab("deploy")
    assert checkout.serves(checkout.live())
    with pytest.raises(urllib.error.URLError):
        Checkout(checkout.folder, old).page()


@pytest.mark.nightly
def test_two_sandboxes_live_side_by_side_and_one_may_be_deleted_or_moved(checkout: Checkout, tmp_path: Path) -> None:
    other = clone(tmp_path / "other")
    other.port, own = checkout.port, other.port
    set_port(other)
    refused = other.fab("deploy", code=4).stderr
    assert f"port {checkout.port} on 127.0.0.1 is taken by the sandbox in {checkout.folder}/.sandbox" in refused
    other.port = own
    set_port(other)
    other.fab("deploy")
    assert other.serves(other.live())
    assert checkout.serves(checkout.live())

    shutil.rmtree(other.folder / ".sandbox")
    assert within(60, lambda: not other.processes())
    other.fab("deploy")
    first = other.live()
    assert other.serves(first)

    moved = Checkout(tmp_path / "moved", other.port)
    other.folder.rename(moved.folder)
    assert within(60, lambda: not other.processes())
    moved.fab("deploy")
    assert moved.live() != first
    assert moved.serves(moved.live())
    end(moved)


def test_a_taken_port_is_named_before_anything_is_built(tmp_path: Path) -> None:
    other = clone(tmp_path / "other")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        said = other.fab("deploy", code=4).stderr
    assert f"port {other.port} on 127.0.0.1 is taken" in said
    assert "choose another port in [stages.sandbox] of releases.toml" in said
    assert not list((other.folder / ".sandbox").glob("releases/*"))
    end(other)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` would bring, built from the files as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    uv(ROOT, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


def uv(folder: Path, *words: str) -> None:
    subprocess.run(
        [str(Path(sys.executable).parent / "uv"), *words], cwd=folder, check=True, env=variables(), timeout=180
    )


def test_a_fresh_project_of_ones_own_is_live_after_init_and_deploy(wheel: Path, tmp_path: Path) -> None:
    mine = Checkout(tmp_path / "mine", free_port())
    mine.folder.mkdir()
    uv(mine.folder, "venv", "--quiet", "--python", sys.executable, ".venv")
    uv(mine.folder, "pip", "install", "--quiet", "--python", ".venv/bin/python", "django>=5.2,<6", str(wheel))
    mine.run(".venv/bin/django-admin", "startproject", "mysite", ".")
    (mine.folder / "requirements.txt").write_text("django>=5.2,<6\n")
    (mine.folder / ".gitignore").write_text(".venv/\n__pycache__/\n")
    assert "fab deploy" in mine.run(".venv/bin/python", "-m", "fab_releases", "init").stdout
    set_port(mine)
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "One")):
        mine.run(*GIT, *words)
    mine.fab("deploy")
    assert "The install worked successfully" in mine.page()
    assert mine.run("git", "status", "--porcelain").stdout == "", "the sandbox holds a secret and must not be committed"
    mine.run(*GIT, "commit", "--quiet", "--allow-empty", "--message", "Two")
    mine.fab("deploy")
    mine.fab("rollback")
    assert "The install worked successfully" in mine.page()
    end(mine)
