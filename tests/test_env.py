"""What a user fears of `fab env`: a password that others see, or that is read back as another, hosts that differ."""

from __future__ import annotations

import base64
import contextlib
import getpass
import json
import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import invoke
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks import _private as private
from tasks import namespace
from tasks._fleet import with_file_flag
from tasks._scene import Scene
from tasks._task import task
from tasks._variables import Change, change, live, the_same, told
from tasks.engine.session import Session
from tasks.model.config import Environment, Stage
from tasks.model.errors import FailedError, PreflightError
from tasks.model.event import Event, PlanFinished
from tasks.model.shell import Secret
from tasks.remote import env, variables
from tests.local_hosts import make_stage, open_host
from tests.process_list import process_list
from tests.test_launch import DIALECTS, launcher
from tests.test_report_docs import agrees

CANARY = "canary-7Kq2 $x'\"#"
SIGHTS = (b"canary", b"Y2FuYXJ5", b"NhbmFye", b"jYW5hcn")
"""A canary, also in base64, wherever it begins."""
ROOT = Path(__file__).resolve().parents[1]
FILE = "A=1\nB=two\n"
TOML = """\
application = "shop"
repository = "/nowhere"
deploy_to = "{host}"
app_user = "{user}"
[services.web]
kind = "web"
command = "true"
[environment]
source = "{source}"
[stages.production]
hosts = [ {{ name = "one", transport = "local" }} ]
"""

# ---- the text

VALUES = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40),
    st.text("ab'\"\\$ {}#\n\t`;&|:-~=!()\r", max_size=16),
)
LINES = st.lists(
    st.sampled_from(
        [
            *("# a comment\n", "\n", "A=1\n", "export B='x y'\n", 'C="two\nlines"\n', "KEY=old # why\n", "D=${A}/x\n"),
            *("  export KEY='o\nld'\n", 'KEY="x"\r\n', "KEY=a\\\nb\n", "E=5 # KEY=3\n", "KEY=last"),
        ]
    ),
    max_size=6,
).map("".join)


def said(text: str, dialect: str, key: str = "KEY") -> list[tuple[str, str]] | None:
    """Every assignment but those of `key`, with references as they are written; None when a line is refused."""
    found = list(launcher.read(text.replace("${", "$-{"), dialect, {}))
    if not all(isinstance(one, launcher.Assignment) for one in found):
        return None
    return [(one.key, one.value) for one in found if one.key != key]


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=300, deadline=None)
@given(value=VALUES, text=LINES)
@example(value="${HOME}", text="")
@example(value=" # no comment ", text=FILE)
@example(value='it\'s "so"\\\n', text="KEY='old'")
def test_a_value_is_read_back_as_the_same_bytes_or_refused(dialect: str, value: str, text: str) -> None:
    before = said(text, dialect)
    try:
        new = variables.with_value(text, dialect, "KEY", Secret(value))
    except FailedError:
        assert before is None or text or dialect in ("decouple", "systemd"), "these two can say anything"
        return
    for process in ({}, {"A": "other", "HOME": "/root", "x": "y"}):
        assert launcher.variables(new, dialect, process, "file")["KEY"] == value
    assert said(new, dialect) == before
    if dialect == "shell" and "lastexport" in text:
        return  # two variables on a line: see below
    gone = variables.without(new, dialect, "KEY")
    assert "KEY" not in launcher.variables(gone, dialect, {}, "file")
    assert said(gone, dialect) == before


AROUND = "# first\n\nA = 1  \n{}\n\n# B=old\nC='x\ny' # z\n  D=4"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("B=old", "B='n w'"),
        ("B='o\nld'   # why", "B='n w'   # why"),
        ("export B=\"old\"", "export B='n w'"),
        ("  B=old\r", "  B='n w'\r"),
    ],
)  # fmt: skip
def test_everything_around_the_changed_line_stays_byte_for_byte(old: str, new: str) -> None:
    assert variables.with_value(AROUND.format(old), "dotenv", "B", Secret("n w")) == AROUND.format(new)


def test_a_new_variable_is_appended_on_a_line_of_its_own() -> None:
    assert variables.with_value("A=1", "shell", "B", Secret("2")) == "A=1\nB=2\n"
    assert variables.with_value("", "systemd", "B", Secret("x y")) == "B='x y'\n"


def test_of_a_value_over_several_lines_no_line_is_left() -> None:
    for dialect in ("dotenv", "systemd", "shell"):
        text = variables.with_value("A=1\nZ=3\n", dialect, "KEY", Secret("-----BEGIN\nabc=\n-----END"))
        assert variables.without(text, dialect, "KEY") == "A=1\nZ=3\n"


def test_every_repetition_goes_with_a_variable() -> None:
    assert variables.without("K=1\nA=2\nK=3\n", "dotenv", "K") == "A=2\n"
    assert variables.with_value("K=1\nA=2\nK=3\n", "dotenv", "K", Secret("4")) == "K=1\nA=2\nK=4\n"


def test_a_line_that_two_variables_share_is_left_alone() -> None:
    for change_it in (lambda: variables.without("A=1 B=2\n", "shell", "B"), lambda: set_shell("A=1 B=2\n", "A")):
        with pytest.raises(FailedError, match="shares its line"):
            change_it()


def set_shell(text: str, key: str) -> str:
    return variables.with_value(text, "shell", key, Secret("new"))


@pytest.mark.parametrize(
    ("dialect", "value", "why"),
    [("decouple", "canary\nof two lines", "several lines"), ("systemd", "canary\x07", "control characters")],
)
def test_what_a_format_cannot_say_is_refused_without_repeating_it(dialect: str, value: str, why: str) -> None:
    with pytest.raises(FailedError, match=why) as refusal:
        variables.with_value(FILE, dialect, "KEY", Secret(value))
    assert "canary" not in str(refusal.value.args)


def test_lines_of_a_value_do_not_pass_for_names() -> None:
    """A PEM over several lines, in a file that is read line by line."""
    text = 'PEM="-----BEGIN\nMIIcanary=\n-----END"\n'
    here = stage_of(format="decouple")
    lines = told(here, text.encode(), b"A=1\n")
    assert "canary" not in "\n".join(lines)
    assert "removed  PEM" in lines
    assert "removed  (what may be part of a value)" in lines


def test_a_change_is_told_by_names_alone() -> None:
    lines = told(stage_of(), b"A=1\nB=canary\nC=3\n", b"A=1\nB=canary2\nD=canary3\n")
    assert lines == ["added    D", "removed  C", "changed  B", "1 unchanged"]
    assert told(stage_of(), b"A=1\n", b"# x\nA=1\n") == ["comments, order or spelling only", "1 unchanged"]


def stage_of(format: str = "dotenv") -> Stage:
    return make_stage(Path("/nowhere"), environment=Environment(format=format))  # type: ignore[arg-type]


def test_where_the_file_comes_from_is_no_reason_for_a_new_release() -> None:
    here = stage_of()
    assert replace(here, environment=Environment(source="sops -d x")).fingerprint == here.fingerprint


# ---- hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Scene, list[Event]]]:
    """Two hosts with the same file."""
    folders = [tmp_path / name for name in ("one", "two")]
    sessions: dict[str, Session] = {}
    for folder in folders:
        (folder / "shared").mkdir(parents=True)
        (folder / "shared" / ".env.production").write_text(FILE)
        sessions[folder.name] = open_host(folder, folder.name)
    heard: list[Event] = []
    stage = make_stage(*folders, environment=Environment(), app_user=getpass.getuser())
    try:
        at = Scene(stage, heard.append, sessions, time.monotonic())
        at.lock("a test")
        at.survey()
        yield at, heard
    finally:
        for session in sessions.values():
            session.close()


def shared(tmp_path: Path, host: str = "one") -> Path:
    return tmp_path / host / "shared"


def write(at: Scene, text: str, **more: bool) -> int:
    return change(at, live(at), Change("env.push", "it is replaced", text.encode(), yes=True, **more))


def test_all_hosts_have_the_new_file_and_each_keeps_the_old_one(
    hosts: tuple[Scene, list[Event]], tmp_path: Path
) -> None:
    assert write(hosts[0], f"A=2\nKEY={CANARY}\n") == 0
    for host in ("one", "two"):
        assert (shared(tmp_path, host) / ".env.production").read_text() == f"A=2\nKEY={CANARY}\n"
        assert mode(shared(tmp_path, host) / ".env.production") == 0o600
        assert mode(shared(tmp_path, host) / ".env.versions") == 0o700
        (kept,) = (shared(tmp_path, host) / ".env.versions").iterdir()
        assert (kept.read_text(), mode(kept)) == (FILE, 0o600)
    assert "canary" not in repr(hosts[1])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_where_one_host_cannot_the_others_go_back(hosts: tuple[Scene, list[Event]], tmp_path: Path) -> None:
    (shared(tmp_path, "two") / ".env.versions").symlink_to(tmp_path)
    assert write(hosts[0], f"KEY={CANARY}\n") == 1
    for host in ("one", "two"):
        assert (shared(tmp_path, host) / ".env.production").read_text() == FILE
    assert "canary" not in repr(hosts[1])
    (ended,) = [event for event in hosts[1] if isinstance(event, PlanFinished)]
    assert ".env.versions is not a folder of" in ended.message


def test_a_file_that_was_not_there_is_not_there_after_a_failure(
    hosts: tuple[Scene, list[Event]], tmp_path: Path
) -> None:
    (shared(tmp_path) / ".env.production").unlink()
    (shared(tmp_path, "two") / ".env.versions").symlink_to(tmp_path)
    assert write(hosts[0], f"KEY={CANARY}\n") == 1
    assert not (shared(tmp_path) / ".env.production").exists()


def test_hosts_that_differ_are_named_with_what_differs(hosts: tuple[Scene, list[Event]], tmp_path: Path) -> None:
    (shared(tmp_path, "two") / ".env.production").write_text("A=canary\nC=3\n")
    with pytest.raises(PreflightError) as refusal:
        the_same(hosts[0].stage, live(hosts[0]))
    assert "two has not the same .env.production as one" in refusal.value.message
    assert [line.strip() for line in refusal.value.message.splitlines()[1:]] == [
        *("added    C", "removed  B", "changed  A", "0 unchanged")
    ]


@pytest.mark.parametrize("planted", ["file", "folder"])
def test_a_link_that_somebody_planted_is_not_followed(
    hosts: tuple[Scene, list[Event]], tmp_path: Path, planted: str
) -> None:
    victim = tmp_path / "victim"
    at, _ = hosts
    if planted == "file":
        victim.write_text("root")
        target = shared(tmp_path) / ".env.production"
        target.unlink()
        target.symlink_to(victim)
    else:
        victim.mkdir()
        (shared(tmp_path) / "config").symlink_to(victim)
        at.stage = replace(at.stage, environment=Environment(file="config/.env"))
    with pytest.raises(FailedError, match="symbolic link"):
        live(at)
    back = env.write(at.stage, b"A=1\n", "20261122-101530-000042")
    assert "symbolic link" in at.sessions["one"].run(back.text()).error[0]
    assert victim.read_text() == "root" if planted == "file" else not list(victim.iterdir())


def test_ten_versions_are_kept(hosts: tuple[Scene, list[Event]], tmp_path: Path) -> None:
    for number in range(13):
        assert write(hosts[0], f"A=1\nB={number}\n") == 0
    kept = sorted((shared(tmp_path) / ".env.versions").iterdir())
    assert [one.read_text() for one in kept] == [f"A=1\nB={number}\n" for number in range(2, 12)]


def test_bytes_of_a_file_that_only_its_application_reads_arrive_as_they_are(
    hosts: tuple[Scene, list[Event]], tmp_path: Path
) -> None:
    at, _ = hosts
    at.stage = replace(at.stage, environment=Environment(format="none"))
    content = bytes(range(256)) * 1000
    assert change(at, live(at), Change("env.push", "it is replaced", content)) == 0
    assert (shared(tmp_path) / ".env.production").read_bytes() == content
    assert live(at)["two"] == content


def test_a_run_that_dies_half_way_leaves_the_old_file_and_no_value(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    (folder / "shared").mkdir(parents=True)
    (folder / "shared" / ".env.production").write_text(FILE)
    stage = make_stage(folder, environment=Environment(), app_user=getpass.getuser())
    said_twice = (
        env.write(stage, b"A=canary\n", "20261122-101530-000042"),
        env.write(stage, b"A=2\n", "20261122-101530-000043"),
    )
    dying = open_host(folder, more="sync() { kill -KILL $BASHPID; }")
    assert not dying.run(said_twice[0].text()).ok
    dying.close()
    assert (folder / "shared" / ".env.production").read_text() == FILE
    session = open_host(folder)
    assert session.run(said_twice[1].text()).ok
    session.close()
    assert (folder / "shared" / ".env.production").read_text() == "A=2\n"
    assert not [path for path in folder.rglob("*") if path.is_file() and "canary" in path.read_text()]


# ---- the operator's side


@pytest.fixture
def operator(tmp_path: Path) -> Path:
    folder = tmp_path / "operator"
    folder.mkdir()
    (folder / "fabfile.py").write_text("from tasks import namespace\n")
    configure(folder)
    (tmp_path / "memory").mkdir()
    (tmp_path / "host" / "shared").mkdir(parents=True)
    target(folder).write_text(FILE)
    return folder


def configure(folder: Path, source: str = "") -> None:
    text = TOML.format(host=folder.parent / "host", user=getpass.getuser(), source=source)
    (folder / "releases.toml").write_text(text)


def target(folder: Path) -> Path:
    return folder.parent / "host" / "shared" / ".env.production"


def fab(
    folder: Path, *words: str, said: str = "", editor: str = "false", **more: str
) -> subprocess.CompletedProcess[str]:
    """`more` are variables of its environment."""
    there = surroundings(folder, editor) | more
    return subprocess.run(command(*words), cwd=folder, env=there, input=said, capture_output=True, text=True)


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).parent / "fab"), *words]


def surroundings(folder: Path, editor: str = "false") -> dict[str, str]:
    memory = str(folder.parent / "memory")
    no_ci = dict.fromkeys(("CI", "GITHUB_ACTIONS", "GITLAB_CI"), "")
    return os.environ | {"PYTHONPATH": str(ROOT), "VISUAL": editor, "EDITOR": "", "XDG_RUNTIME_DIR": memory} | no_ci


def betraying(seen: set[str]) -> list[str]:
    return [words for words in seen if any(one.decode() in words for one in SIGHTS)]


def test_no_process_and_no_report_shows_a_value(operator: Path) -> None:
    (operator / "new.env").write_text(f"A=1\nB=two\nKEY='{'canary' * 20000}'\n")
    typist = operator / "typist"  # who types the value: not on a command line, where the watch would see it
    typist.write_text('#!/bin/sh\nword=$(printf "can%s" ary)\nprintf "C=%s\\n" "$word" >>"$1"\n')
    typist.chmod(0o700)
    with process_list() as seen:
        done = [
            fab(operator, "env.set", "KEY", "--json", said=CANARY),
            fab(operator, "-e", "env.set", "KEY", said="canary2"),
            fab(operator, "env.diff", "new.env"),
            fab(operator, "env.push", "new.env", "--json"),
            fab(operator, "env.versions"),
            fab(operator, "env.unset", "KEY", "--yes"),
            fab(operator, "env.edit", editor=str(typist)),
        ]
    assert [one.returncode for one in done] == [0] * 7, done
    assert "canary" not in "".join(one.stdout + one.stderr for one in done)
    assert not betraying(seen)
    private_folder = operator.parent / "host" / ".releases"
    assert "canary" not in "".join(path.read_text() for path in private_folder.rglob("*") if path.is_file())


def test_the_watch_would_see_it() -> None:
    with process_list() as seen:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)", "canary"], check=True)
    assert betraying(seen)
    for before in range(3):
        encoded = base64.b64encode(b" " * before + b"canary-")
        assert any(one in encoded for one in SIGHTS)


@pytest.mark.parametrize("words", [("KEY=s3cret",), ("KEY", "s3cret"), ("KEY", "--value=s3cret"), ("s3cret==",)])
def test_a_value_on_the_command_line_is_refused_and_not_repeated(operator: Path, words: tuple[str, ...]) -> None:
    done = fab(operator, "env.set", *words)
    assert done.returncode == 2
    assert "s3cret" not in done.stdout + done.stderr.replace("s3cret=...", "")
    assert "stdin" in done.stderr
    assert target(operator).read_text() == FILE


def typed(operator: Path, keys: bytes) -> tuple[int, bytes]:
    """How `fab env.set KEY` ends on a terminal where somebody types `keys`, and what the terminal shows."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(operator)
        os.execve(command()[0], command("env.set", "KEY"), surroundings(operator))
    shown = b""
    with contextlib.suppress(OSError):  # Linux says EIO when the other end is closed
        while piece := os.read(terminal, 4096):
            shown += piece
            if shown.endswith(b"KEY: "):  # the echo is off by then
                os.write(terminal, keys)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    return ended, shown


def test_a_typed_value_is_not_shown(operator: Path) -> None:
    ended, shown = typed(operator, b"canary of a person\n")
    assert (ended, b"canary" in shown) == (0, False), shown
    assert target(operator).read_text() == FILE + "KEY='canary of a person'\n"


@pytest.mark.parametrize("keys", [b"\n", b"\x04"])
def test_nothing_typed_is_no_empty_password(operator: Path, keys: bytes) -> None:
    ended, shown = typed(operator, keys)
    assert (ended, b"nothing was typed" in shown) == (2, True), shown
    assert target(operator).read_text() == FILE


def test_variables_that_go_are_asked_for(operator: Path) -> None:
    (operator / "new.env").write_text("A=1\n")
    for words in (("env.push", "new.env"), ("env.unset", "B")):
        done = fab(operator, *words)
        assert (done.returncode, "B: this variable goes" in done.stderr) == (2, True), done.stderr
        assert target(operator).read_text() == FILE
    assert fab(operator, "env.push", "--yes", "new.env").returncode == 0
    assert target(operator).read_text() == "A=1\n"
    assert fab(operator, "env.unset", "B", "--yes").returncode == 2


def test_an_earlier_version_comes_back(operator: Path) -> None:
    assert fab(operator, "env.set", "B", said="other").returncode == 0
    version = fab(operator, "env.versions").stdout.split()[1]
    assert fab(operator, "env.restore", version).returncode == 0
    assert target(operator).read_text() == FILE
    assert fab(operator, "env.restore", "../../etc/passwd").returncode == 2
    assert fab(operator, "env.restore", "20000101-000000-000000").returncode == 1


def test_programs_learn_names_and_never_values(operator: Path) -> None:
    (operator / "new.env").write_text("A=1\nB=canary\nC=canary\n")
    done = fab(operator, "env.diff", "new.env", "--json")
    alone = json.loads(fab(operator, "env.diff", "--json").stdout)
    assert fab(operator, "env.set", "B", said="canary").returncode == 0
    kept = fab(operator, "env.versions", "--json")
    assert "canary" not in done.stdout + done.stderr + kept.stdout
    told = json.loads(done.stdout)
    agrees(told, "`fab env.diff --json`")
    ((host, one),) = told["hosts"].items()
    agrees(one, "How a host differs")
    assert (one["names"], one["added"], one["changed"], one["same"]) == (["A", "B"], ["C"], ["B"], False)
    assert told["compared_with"] == "new.env"
    assert (alone["compared_with"], alone["hosts"][host]["same"]) == (host, True)
    versions = json.loads(kept.stdout)
    agrees(versions, "`fab env.versions --json`")
    assert [fab(operator, "env.restore", one).returncode for one in versions["hosts"][host]] == [0]


def test_a_file_that_launch_would_refuse_is_not_pushed(operator: Path) -> None:
    (operator / "new.env").write_text("A=1\nB='canary\n")
    done = fab(operator, "env.push", "new.env", "--yes")
    assert (done.returncode, "new.env, line 2: " in done.stderr) == (1, True), done.stderr
    assert "canary" not in done.stderr
    assert target(operator).read_text() == FILE


def test_a_command_gives_the_file(operator: Path) -> None:
    (operator / "vault").write_text("A=1\nB=two\nC=canary\n")
    configure(operator, source="cat vault")
    assert "added    C" in fab(operator, "env.diff").stdout
    assert fab(operator, "env.push").returncode == 0
    assert target(operator).read_text() == "A=1\nB=two\nC=canary\n"
    for source, code in (("cat nowhere", 1), ("true", 1), ("no-such-vault", 2), ("", 2)):
        configure(operator, source=source)
        done = fab(operator, "env.push")
        assert done.returncode == code, done.stderr
        assert target(operator).read_text() == "A=1\nB=two\nC=canary\n"


def test_who_changes_one_host_alone_is_told_of_the_others(operator: Path) -> None:
    text = (operator / "releases.toml").read_text()
    two = 'transport = "local" }, { name = "two", address = "192.0.2.1" }'
    (operator / "releases.toml").write_text(text.replace('transport = "local" }', two))
    done = fab(operator, "-H", "one", "env.set", "B", said="x")
    assert (done.returncode, "two: not chosen, and left as it is" in done.stderr) == (0, True), done.stderr


def test_a_frozen_stage_keeps_its_settings(operator: Path) -> None:
    (operator.parent / "host" / ".releases").mkdir()
    (operator.parent / "host" / ".releases" / "freeze").write_text("holidays\n")
    assert fab(operator, "env.set", "B", said="x").returncode == 3
    assert target(operator).read_text() == FILE


def test_what_is_fetched_is_not_shown_in_the_log_of_a_ci_job(operator: Path) -> None:
    refused = fab(operator, "env.pull", GITHUB_ACTIONS="true")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert fab(operator, "env.pull", "--to", "-", GITHUB_ACTIONS="true").stdout == FILE


def test_what_is_fetched_is_for_one_pair_of_eyes(operator: Path) -> None:
    assert fab(operator, "env.pull").stdout == FILE
    subprocess.run(["git", "init", "-q", str(operator)], check=True)
    done = fab(operator, "env.pull", "--to", "mine.env")
    assert (done.returncode, "git does not ignore mine.env" in done.stderr) == (0, True), done.stderr
    assert (mode(operator / "mine.env"), (operator / "mine.env").read_text()) == (0o600, FILE)
    assert fab(operator, "env.pull", "--to", "mine.env").returncode == 2
    (operator / ".gitignore").write_text("mine.env\n")
    done = fab(operator, "env.pull", "--to", "mine.env", "--force")
    assert (done.returncode, "git" in done.stderr) == (0, False), done.stderr
    assert not [one for one in operator.iterdir() if one.name.startswith(".mine.env")]


@pytest.mark.parametrize(
    ("editor", "code", "says"),
    [
        ("true", 0, "says that already"),
        ("", 2, "nobody is here to edit"),
        ("false", 1, "ended with 1"),
        ("no-such-editor", 2, "no-such-editor"),
        ("sed -i s/two/'canary/", 2, "not a command line"),
        ('sed -i "s/two/\'canary/"', 1, ".env.production, line 2: "),
    ],
)
def test_an_edit_that_went_wrong_changes_nothing_and_leaves_nothing(
    operator: Path, editor: str, code: int, says: str
) -> None:
    done = fab(operator, "env.edit", editor=editor)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stderr
    assert "'canary" not in done.stderr.replace(editor or "-", "")
    assert target(operator).read_text() == FILE
    assert not list((operator.parent / "memory").iterdir())


def test_the_edited_copy_is_private_and_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with contextlib.suppress(RuntimeError), private.desk(".env", b"canary") as path:
        (path.parent / ".env.swp").write_bytes(b"canary")
        assert (mode(path), mode(path.parent), path.parent.parent) == (0o600, 0o700, tmp_path)
        os.link(path, tmp_path / "file")
        os.link(path.parent / ".env.swp", tmp_path / "swap")
        raise RuntimeError
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "swap"]
    assert {one.read_bytes() for one in tmp_path.iterdir()} == {bytes(6)}


def test_not_even_a_bug_of_ours_shows_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    @task(secret=True)
    def broken(context: invoke.Context) -> None:
        """Break."""
        raise ValueError(CANARY)

    with pytest.raises(invoke.Exit) as end:
        broken(invoke.Context())
    shown = capsys.readouterr()
    assert end.value.code == 70
    assert "in broken" in shown.err
    assert "ValueError" in shown.err
    assert "canary" not in shown.err + shown.out


def test_every_task_that_handles_values_is_kept_from_telling_them() -> None:
    source = (ROOT / "tasks" / "env.py").read_text()
    parts = source.split("\n@task(")[1:]
    declared = {part.partition("def ")[2].partition("(")[0]: part.partition("def ")[0] for part in parts}
    assert len(declared) == 8
    assert [name for name, head in declared.items() if "secret=True" not in head] == ["versions"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["env.push", "a.env"], ["env.push", "--file", "a.env"]),
        (["env.push", "--yes", "a.env"], ["env.push", "--yes", "--file", "a.env"]),
        (["env.push", "--stage", "x", "a.env"], ["env.push", "--stage", "x", "--file", "a.env"]),
        (["env.push", "--stage=x"], ["env.push", "--stage=x"]),
        (["env.diff", "a", "env.push", "b"], ["env.diff", "--file", "a", "env.push", "--file", "b"]),
        (["env.push", "-H", "web1"], ["env.push", "-H", "web1"]),
        (["deploy", "a.env"], ["deploy", "a.env"]),
    ],
)
def test_a_file_may_be_named_or_left_out(words: list[str], wanted: list[str]) -> None:
    assert with_file_flag(words, namespace) == wanted
