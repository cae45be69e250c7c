"""Whatever a person types is refused or carried as text, never run; whatever a server says is shown, never obeyed."""

from __future__ import annotations

import ast
import html
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import invoke
import pytest
from rich.console import Console as Terminal

from tasks import _operator
from tasks.config.load import load, stage
from tasks.model.errors import HostLost, UsageError
from tasks.model.shell import script
from tasks.remote import operate
from tasks.remote.files import server_files
from tasks.remote.machine.backups import settings
from tasks.report import safe
from tasks.server.installed import restic
from tasks.server.refused import Refused
from tests.local_hosts import Library, open_library

ROOT = Path(__file__).parent.parent
WORDS = [
    *(
        "-x",
        "--upload-pack=touch MARK",
        "a;touch MARK",
        "$(touch MARK)",
        "`touch MARK`",
        "a|touch MARK",
        "a&touch MARK",
    ),
    *("a>MARK", "'", "a'\"b", "'; touch MARK; '", '"; touch MARK; "', "$IFS", "a\ntouch MARK", "../"),
    *(
        "/etc",
        "~root",
        "{{7*7}}",
        "{% raw %}",
        "%n",
        "ünï",
        "\u2028",
        "x" * 300,
        "",
        " ",
        "ext::sh -c 'touch MARK'",
        "\x1b[2J",
        "*",
    ),
]
TOML = """default_stage = "here"
application = {application}
[environment]
file = ""
[stages.here]
repository = {repository}
deploy_to = {deploy_to}
shared_dirs = [{shared_dirs}]
manager = "systemd"
hosts = [{{ name = "here", transport = "local" }}]
[stages.here.services.web]
kind = "web"
application = "shop.wsgi:application"
"""
SENT_AWAY = "[stages.here.backup]\nrepository = {}\n"
GOOD = {"application": "shop", "repository": "/nowhere", "deploy_to": "/nonexistent/shop", "shared_dirs": "media"}


def toml(text: str) -> str:
    """A TOML string that means exactly `text`."""
    return '"' + "".join(f"\\U{ord(one):08x}" for one in text) + '"'


def configured(folder: Path, **given: str) -> Path:
    path = folder / "releases.toml"
    path.write_text(TOML.format(**{name: toml(text) for name, text in (GOOD | given).items()}))
    return path


def armed(word: str, folder: Path) -> str:
    return word.replace("MARK", str(folder / "MARK"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    configured(folder, deploy_to=str(folder / "server"))
    (folder / "fabfile.py").write_text("from tasks import namespace\n")
    return folder


def fab(folder: Path, *words: str) -> int:
    kept = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).parent / "fab"), *words]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "bug of fab-releases" not in done.stderr, (words, done.stderr)
    assert "Traceback" not in done.stderr, (words, done.stderr)
    return done.returncode


SAMPLE = ["--upload-pack=touch MARK", "a;touch MARK", "$(touch MARK)", "a\ntouch MARK"]
FLAGS = ["deploy --ref=", "deploy --stage=", "rollback --to=", "-H ", "releases --pin="]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_refused_as_usage_before_anything_is_touched(project: Path, flag: str) -> None:
    def refused(word: str) -> int:
        said = armed(word, project)
        return fab(project, "-H", said, "status") if flag == "-H " else fab(project, *(flag + said).split(" ", 1))

    with ThreadPoolExecutor(2) as pool:
        codes = dict(zip(SAMPLE, pool.map(refused, SAMPLE), strict=True))
    assert set(codes.values()) == {2}, codes
    assert not (project / "MARK").exists()
    assert not (project / "server").exists()


@pytest.mark.parametrize("word", WORDS, ids=ascii)
@pytest.mark.parametrize("key", GOOD)
def test_a_value_of_the_configuration_is_refused_or_harmless(tmp_path: Path, key: str, word: str) -> None:
    """What is accepted reaches units, sudoers and nginx as one plain word."""
    try:
        here = stage(load(configured(tmp_path, **{key: armed(word, tmp_path)})), "here")
    except UsageError:
        return
    for text in (here.application, here.deploy_to, *here.shared_dirs):
        assert not set(text) & set(" \n\r\t'\"`$;|&<>\\*(){}%\u2028\x1b"), text
        assert not text.startswith("-")
        assert ".." not in text.split("/")
    assert not set(here.repository) & set(" \n'\"`$;|&<>\\\u2028\x1b"), here.repository
    for text in server_files(here, here.hosts[0]).values():
        assert "touch" not in text


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_a_repository_of_backups_is_refused_or_one_plain_word(tmp_path: Path, word: str) -> None:
    """A program of root's reads it at night."""
    path = configured(tmp_path)
    path.write_text(path.read_text() + SENT_AWAY.format(toml(armed(word, tmp_path))))
    try:
        here = stage(load(path), "here")
    except UsageError:
        return
    assert not set(here.backup.repository) & set(" \n\r\t'\"`$;|&<>\\\u2028\x1b"), here.backup.repository
    assert json.loads(settings(here, here.primary))["repository"] == here.backup.repository


@pytest.mark.parametrize(
    "key", ["repository = {}", "hooks.after_switch = [{}]", "backup.repository = {}", "tls.email = {}"]
)
@pytest.mark.parametrize("word", ["a\x7fb", "a\x9bb", "a\u2028b", "a\u202eb", "a\u0085b", "\ufeffa"], ids=ascii)
def test_characters_that_nobody_sees_are_refused(tmp_path: Path, key: str, word: str) -> None:
    path = configured(tmp_path)
    named = key.partition(" ")[0]
    text = re.sub(rf"(?m)^{re.escape(named)} = .*\n", "", path.read_text())
    path.write_text(text.replace("[stages.here]\n", "[stages.here]\n" + key.format(toml(word)) + "\n"))
    with pytest.raises(UsageError, match=re.escape(named)):
        load(path)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    yield from open_library(tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_a_message_is_carried_as_text(at: Library, word: str) -> None:
    said = armed(word, at.folder)
    at.ok("prepare_folders\n" + operate.freeze(said).text() + operate.maintenance("on", said).text())
    assert (at.folder / ".releases" / "freeze").read_text() == f"{said}\n"
    page = (at.folder / "shared" / "maintenance.html").read_text()
    assert html.unescape(page).endswith(f"<p>{said}</p>\n")
    assert not (at.folder / "MARK").exists()


def test_a_message_is_never_markup(at: Library) -> None:
    at.ok(operate.maintenance("on", "<script>alert(1)</script> & more").text())
    assert "<script" not in (at.folder / "shared" / "maintenance.html").read_text()


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_a_service_is_only_ever_looked_up(at: Library, word: str) -> None:
    said = armed(word, at.folder)
    if said:
        assert "there is no service" in at.refused(operate.logs(said, 5, follow=False).text())
    assert not (at.folder / "MARK").exists()


PROBE = """import json, os, sys
from pathlib import Path
seen = [path.read_bytes().decode() for path in Path("/proc").glob("[0-9]*/cmdline")]
is_seen = any("canary-of-a-header" in one for one in seen)
print(json.dumps({"asked": json.loads(sys.stdin.read())["url"], "seen": is_seen}))
"""


def test_a_header_of_the_health_check_is_in_no_process_list(at: Library) -> None:
    path = at.folder / "releases" / "20261122-101530-9f3c2ab" / ".release" / "probe.py"
    path.parent.mkdir(parents=True)
    path.write_text(PROBE)
    asked = json.dumps({"url": "http://x/", "headers": {"Authorization": "canary-of-a-header"}})
    told = at.ok(script(("probe", "20261122-101530-9f3c2ab", asked)).text())["probe"]
    assert json.loads(told) == {"asked": "http://x/", "seen": False}


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_who_and_why_reach_the_journal_as_text(at: Library, word: str) -> None:
    from tasks.model.release import JournalEntry
    from tasks.model.shell import script

    said = armed(word, at.folder)
    at.ok("prepare_folders\n" + script(("journal", "live", "20261122-101530-9f3c2ab", "", said, said)).text())
    last = (at.folder / ".releases" / "journal.jsonl").read_text().splitlines()[-1]
    assert JournalEntry.from_json(last).event == "live"
    assert not (at.folder / "MARK").exists()


# ---- what servers, databases, logs and visitors say -----------------------------------------------------------------

SAID = {
    "a clipboard written by OSC 52": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "a screen wiped": "\x1b[2J\x1b[Hok",
    "a window title": "\x1b]0;title\x1b\\",
    "hidden text": "\x1b[8mhidden\x1b[0m",
    "an eight-bit escape": "\x9b2J\x9d0;title\x9c",
    "a line overwritten": "failed\rok    ",
    "backspaces": "bad\x08\x08\x08ok",
    "a bell and a null": "\x07\x00",
    "delete": "a\x7fb",
    "a direction turned": "\u202egnp.exe\u2066x\u200f",
    "letters nobody sees": "a\u200bb\ufeffc\u00adrm\U000e0041",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "half a surrogate": "\udc9b2J",
    "a GitHub command": "::error title=forged::x",
    "an indented GitHub command": " \t::set-output name=release::evil",
    "a GitHub command behind another space": "\u3000::stop-commands::x",
    "an old GitHub command": "x ##[add-mask]e",
    "an encoded line break": "x%0A::error::forged%0D%0a##[error]y",
    "a GitLab section": "section_start:1700000000:x[collapsed=true]\r\x1b[0Khidden",
    "markup of rich": "[red]x[/red] [link=http://evil]y[/link] [/]",
    "HTML and Markdown": "<script>alert(1)</script> ![x](http://evil) | a | `b` # c",
    "the end of a fence": "````",
}


def outputs(said: str) -> Iterator[tuple[str, str]]:
    """(where, what is written there) with somebody else's text in every place where it may stand."""
    from datetime import UTC, datetime

    from tasks.model.event import (
        HostDown,
        Note,
        PhaseStarted,
        PlanFinished,
        PlanStarted,
        Said,
        StepFinished,
        StepStarted,
        UndoStarted,
    )
    from tasks.model.facts import HostFacts, RoleState
    from tasks.model.finding import bad
    from tasks.model.plan import Phase, Plan, Step
    from tasks.model.release import JournalEntry, Release
    from tasks.model.shell import script
    from tasks.report import findings, github, gitlab, paper, tables
    from tasks.report.console import Console
    from tasks.report.jsonl import Jsonl
    from tasks.report.plain import Plain

    step = Step("switch", said, script(("echo", said.replace("\0", ""))))
    plan = Plan("deploy", "production", ("web1",), (Phase("switch", said, {"web1": (step,)}),), said, said)
    events = [
        PlanStarted(plan),
        PhaseStarted("switch", said, ("web1",)),
        StepStarted("switch", "switch", said, "web1"),
        Said("web1", "switch", said),
        Note(said, "web1", warning=True),
        StepFinished("switch", "switch", said, "web1", False, 2.0, (said, f"x{said}")),
        UndoStarted(said, ("web1",)),
        HostDown("web1", said),
        PlanFinished(plan, 1, said, 1.0, said, {"web1": {"previous": said, "sha": said}}, {"web1": said}),
    ]
    for name, sections in (("plain", None), ("github log", github.SECTIONS), ("gitlab log", gitlab.sections())):
        stream = io.StringIO()
        plain = Plain(stream, sections) if sections else Plain(stream)
        for event in events:
            plain(event)
            plain.still()
        plain.close()
        text = re.sub(r"\x1b\[0Ksection_(start|end):\d+:(switch|undo)\r\x1b\[0K", "", stream.getvalue())
        assert not re.search(r"(?m)^::.*%0[AaDd]", stream.getvalue()), name
        yield name, re.sub(r"(?m)^::(group::.*|endgroup::)$", "", text)
    stream = io.StringIO()
    console = Console(Terminal(file=stream, force_terminal=True, width=200, color_system=None, highlight=False))
    for event in events:
        console(event)
    console.close()
    yield "terminal", re.sub(r"\x1b\[(\?25[lh]|\d*[AK]|2K)|\r", "", stream.getvalue())
    stream = io.StringIO()
    lines = Jsonl(stream)
    for event in events:
        lines(event)
    yield "json", stream.getvalue()
    assert all(json.loads(line) for line in stream.getvalue().splitlines())
    annotation = github.error(events[-1])  # type: ignore[arg-type]
    assert annotation.count("%0A") == 1, "between the sentence and the hint"
    yield "annotation", annotation.removeprefix("::error title=deploy production failed::")
    yield "summary", github.summary(events[-1], [events[5]])  # type: ignore[arg-type, list-item]
    yield "plan", paper.to_text(plan)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    release = Release("20261122-101530-9f3c2ab", said, said, by=said)
    facts = HostFacts(
        host="web1",
        current=said,
        releases=(release,),
        lock=said,
        freeze=said,
        units={said: said},
        problems=((said, said),),
        leftovers=(said,),
        journal=(JournalEntry(seq=1, at="", event=said, release=said, previous=said, by=said, note=said),),
    )
    beside = tables.Beside((RoleState("db1", "postgresql", said, False),), {"web2": said})
    yield "status", tables.status((facts,), now, beside=beside)
    yield "releases", tables.releases((facts,), now)
    yield "history", tables.history((facts,), now)
    yield "check", findings.to_text({"web1": (bad(said, said, said),)}, aligned=True)


STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def is_harmless(where: str, text: str) -> None:
    steering = [
        one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") and one not in "\n\t"
    ]
    assert steering == [], where
    if "github" in where:
        assert not re.search(r"(?m)^\s*::|##\[", text), where
    assert not (where == "json" and "##[" in text)


@pytest.mark.parametrize("name", SAID)
def test_what_a_server_says_steers_no_terminal_and_no_runner(name: str) -> None:
    seen = dict(outputs(SAID[name]))
    for where, text in seen.items():
        is_harmless(where, text)
    prose = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", seen["summary"])
    assert not re.search(r"(?<!\\)[<!`]", prose), prose


@pytest.mark.parametrize("name", SAID)
def test_what_a_server_says_is_harmless_in_errors_questions_and_lists(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks._task import fail, guarded

    said = SAID[name]

    def broken() -> None:
        raise RuntimeError(said)

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_ACTOR", said.replace("\0", ""))
    monkeypatch.setattr(sys, "argv", ["fab", said, said])
    with pytest.raises(invoke.Exit):
        fail(f"web1: {said}\n  {said}", said, 1)
    with pytest.raises(invoke.Exit):
        guarded(broken)
    safe.out(f"{said}\n{said}")
    safe.out(said, styled=True)
    safe.prompt(said)
    safe.out_json({said: said})
    stream = safe.Readable(sys.stdout)
    for piece in (said[:1], said[1:], "\n", said):
        stream.write(piece)
    stream.end()
    heard = capsys.readouterr()
    is_harmless("github", heard.out + heard.err)
    assert _operator.who() == safe.clean(_operator.who())


@pytest.mark.parametrize("name", SAID)
def test_a_visitors_words_in_a_log_are_only_shown(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fab logs --service nginx` shows Referer headers of whoever came by."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    from tasks import show
    from tests.said import session_that_says

    session = session_that_says("web1", [f'"GET / HTTP/1.1" 200 "{SAID[name]}"'.encode(errors="surrogateescape")])
    at = SimpleNamespace(sessions={"web1": session})

    @contextmanager
    def quiet(*_: object) -> Iterator[object]:
        yield at

    monkeypatch.setattr(show, "_quiet", quiet)
    show.logs.body(invoke.Context(), service="nginx")
    heard = capsys.readouterr()
    assert "GET /" in heard.out
    is_harmless("logs", heard.out + heard.err)


def test_a_stranger_that_answers_instead_of_a_server_is_quoted_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    from tasks._task import fail
    from tests.said import session_that_says

    with pytest.raises(HostLost) as refused:
        session_that_says("web1", [b"\x1b]52;c;eA==\x07", b"::error::x"], hello=False).hello()
    with pytest.raises(invoke.Exit):
        fail(refused.value.message, refused.value.hint, 1)
    is_harmless("github", capsys.readouterr().err)


def test_every_character_that_steers_is_shown() -> None:
    for code in range(0x110000):
        one = chr(code)
        if unicodedata.category(one) in STEERING and one not in "\n\t":
            assert safe.block(one).isprintable(), hex(code)
            assert safe.clean(one).isprintable(), hex(code)
    for plain in ("héllo wörld", "日本語", "العربية", "👍", "a\tb\nc", "→ ✓ ✗ …", r"C:\x1b"):
        assert safe.block(plain) == plain


FORBIDDEN = "text leaves by tasks/report/safe.py alone"
TALKS = {"print", "input", "pprint", "breakpoint"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
TAKE_STREAMS = ("Readable", "is_read_by_people", "Plain", "Jsonl", "Summary")
SAFE = ROOT / "tasks" / "report" / "safe.py"
MODULES = [path for path in sorted((ROOT / "tasks").rglob("*.py")) if "server" not in path.parts and path != SAFE]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_leaves_by_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text())
    harmless: set[ast.AST] = set()
    for node in ast.walk(tree):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {FORBIDDEN}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            assert last not in TALKS, where
            assert name not in ("os.write", "warnings.warn", "traceback.print_exc", "click.echo"), where
            assert last not in ("Exit", "SystemExit", "exit") or not _speaks(node), where
            if name in ("sys.stdout.isatty", "sys.stderr.isatty") or last in TAKE_STREAMS:
                harmless.update(ast.walk(node))
            if last in ("Text", "Terminal") or name.startswith("rich."):
                assert path.name == "console.py", where
        if isinstance(node, ast.Attribute) and node.attr in STREAMS and ast.unparse(node.value) == "sys":
            assert node in harmless, where
        if isinstance(node, ast.ImportFrom):
            names = {one.name for one in node.names}
            assert node.module not in ("rich", "rich.text"), where
            assert node.module != "sys" or not names & STREAMS, where
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logging."):
            assert node.func.attr in ("getLogger", "addHandler", "NullHandler"), where  # type: ignore[attr-defined]


def _speaks(call: ast.Call) -> bool:
    """Whether Python or Invoke would print what it is given."""
    given = [*call.args, *(one.value for one in call.keywords if one.arg == "message")]
    return any(isinstance(one, ast.JoinedStr) or (isinstance(one, ast.Constant) and one.value) for one in given)


def test_what_opens_a_repository_comes_from_a_variable_and_is_never_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """restic 0.14, as in Debian 12, takes the password of a REST server in the address alone."""
    address = "rest:https://backup.example.com/shop"
    opened = address.replace("https://", "https://me:canary-word@")
    program = tmp_path / "bin" / "restic"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf %s "$RESTIC_REPOSITORY" >{tmp_path}/asked\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(restic, "variables", lambda _: {"RESTIC_REPOSITORY": opened})
    with pytest.raises(Refused, match=re.escape(address)) as no:
        restic.Repository("shop", address).must("cat", "config")
    assert (tmp_path / "asked").read_text() == opened
    assert "canary-word" not in no.value.message + no.value.hint
