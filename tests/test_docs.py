"""Documentation that promises a command, a page or an outcome that is not there is worse than none."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import _pages, namespace
from tasks.config import reference
from tasks.config.load import load, stage
from tasks.model.errors import EXIT_CODES
from tasks.model.facts import HostFacts
from tasks.model.release import Release
from tasks.plans import deploy
from tasks.report.pages import arguments

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    if not name.startswith("tests/golden/") and (ROOT / name).is_file()
)
STAGE = """
[stages.production]
application = "pos"
repository = "https://git.example.com/pos.git"
deploy_to = "/var/www/pos"
shared_dirs = ["media"]
hosts = [{ name = "web1", address = "203.0.113.10" }]
hooks = { after_checkout = ["true"], before_switch = ["true"], after_switch = ["true"] }
django = { wsgi = "pos.wsgi:application" }

[stages.production.services]
web = { kind = "web" }
worker = { kind = "worker", application = "pos" }
beat = { kind = "beat", application = "pos" }
"""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def commands(text: str) -> Iterator[str]:
    """What follows `fab` in code spans and in the lines of code blocks."""
    blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [*(line for block in blocks for line in block.splitlines()), *spans]:
        found = re.match(r"\s*[$#]?\s*(?:\.venv/bin/|uv run )?(?:fab|fab-releases|python -m fab_releases) +(.+)", line)
        if found:
            yield re.split(r" {2,}#| #| \|| && | >", found[1])[0].strip()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_and_flag_that_is_named_exists(page: Path) -> None:
    for command in commands(page.read_text()):
        words = shlex.split(command)
        if words[0] == "-H":
            words = words[2:]
        if words[0] in ("--list", "--help", "--version"):
            continue
        assert words[0] in namespace.task_names, command
        flags = flags_of(words[0])
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in flags, command


def flags_of(name: str) -> set[str]:
    task: Any = namespace[name]
    kept = dict(task.help)
    found = {f"--{one.name.strip('_').replace('_', '-')}" for one in arguments(task)}
    task.help = kept
    return found


def test_readme_names_commands_and_they_were_found() -> None:
    """The test above would pass if it found nothing."""
    found = list(commands((ROOT / "README.md").read_text()))
    assert {"deploy", "rollback", "status", "stop"} <= set(found)
    assert len(found) > 15


def test_generated_pages_say_what_the_code_says() -> None:
    assert _pages.main([], ROOT / _pages.REFERENCE) == 0
    assert reference.main([], ROOT) == 0


def test_a_stale_page_is_found_and_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pages.main([], tmp_path) == 1
    assert "make docs" in capsys.readouterr().err
    assert _pages.main(["--write"], tmp_path) == 0
    assert _pages.main([], tmp_path) == 0
    (tmp_path / "tasks.md").write_text("# Tasks\n")
    assert _pages.main([], tmp_path) == 1


def test_every_task_and_flag_is_in_the_reference() -> None:
    sections = re.split(r"^## `fab ", (ROOT / "docs/reference/tasks.md").read_text(), flags=re.MULTILINE)[1:]
    assert [one.split("`")[0].split()[0] for one in sections] == list(namespace.task_names)
    told = re.findall(r"^\| `--.*` \| (.*) \|$", "".join(sections), re.MULTILINE)
    assert len(told) > 30
    assert not [one for one in told if one in ("", "None")]


def test_the_readme_says_every_exit_code_in_the_same_words() -> None:
    told = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert told == {str(code): meaning for code, meaning in EXIT_CODES.items()}


def test_what_happens_if_it_dies_is_told_for_every_step_in_order(tmp_path: Path) -> None:
    (tmp_path / "releases.toml").write_text(STAGE)
    here = stage(load(tmp_path / "releases.toml"), "production")
    release = Release("20261122-101530-9f3c2ab", "9f3c2ab" + "0" * 33, "main")
    plan = deploy.plan(here, {"web1": HostFacts("web1")}, release, "somebody")
    steps = [step.name for phase in plan.phases for step in phase.steps["web1"]]
    page = (ROOT / "docs/how-it-works.md").read_text().partition("## If it dies at a step")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == steps


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=named)
def test_a_decision_says_why_what_follows_and_what_was_measured(page: Path) -> None:
    text = page.read_text()
    assert re.match(rf"# {int(page.name[:4])}\. ", text)
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequence", "Measured"]
    for path in re.findall(r"tests/[\w/]+\.py", text):
        assert (ROOT / path).is_file(), path
