"""Whatever a person types is refused or carried as text: no word of theirs is ever run."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.config.load import load, stage
from tasks.model.errors import UsageError
from tasks.remote import operate
from tasks.remote.files import server_files
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
"""
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
    assert not set(here.repository) & set(" \n'\"`$;|&<>\\"), here.repository
    for text in server_files(here).values():
        assert "touch" not in text


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


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_who_and_why_reach_the_journal_as_text(at: Library, word: str) -> None:
    from tasks.model.release import JournalEntry
    from tasks.model.shell import script

    said = armed(word, at.folder)
    at.ok("prepare_folders\n" + script(("journal", "live", "20261122-101530-9f3c2ab", "", said, said)).text())
    last = (at.folder / ".releases" / "journal.jsonl").read_text().splitlines()[-1]
    assert JournalEntry.from_json(last).event == "live"
    assert not (at.folder / "MARK").exists()
