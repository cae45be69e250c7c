"""What a reader must be able to trust whatever happens: pipes that close, terminals, threads, hostile output."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from tasks.model.event import Event, Note, PhaseStarted, PlanFinished, PlanStarted, Said, StepFinished, StepStarted
from tasks.report import github
from tasks.report.choose import reporters
from tasks.report.console import Console
from tasks.report.jsonl import Jsonl
from tasks.report.plain import Plain
from tasks.report.reporter import together

from .test_report_stories import NEW, STORIES, VENV, deploy

ROOT = Path(__file__).parents[1]


def started(*hosts: str) -> list[Event]:
    return [
        PlanStarted(deploy(*hosts)),
        PhaseStarted("prepare", "Prepare", hosts),
        *(StepStarted("prepare", VENV.name, VENV.title, host) for host in hosts),
    ]


def screen(stream: io.StringIO, environ: dict[str, str]) -> Terminal:
    environ = {"TERM": "xterm-256color"} | environ
    return Terminal(file=stream, width=80, highlight=False, force_terminal=True, _environ=environ)


class TestPlain:
    def test_a_long_step_says_every_ten_seconds_that_it_still_works(self) -> None:
        stream, now = io.StringIO(), [0.0]
        plain = Plain(stream, clock=lambda: now[0])
        for event in started("web1"):
            plain(event)
        plain(Said("web1", VENV.name, "Building numpy"))
        plain.close()
        told = []
        for now[0] in (9.0, 10.0, 15.0, 19.9, 20.0):
            before = len(stream.getvalue())
            plain.still()
            told.append(stream.getvalue()[before:])
        line = "  install requirements, still working after {}s: Building numpy\n"
        assert told == ["", line.format(10), "", "", line.format(20)]

    def test_the_watch_runs_by_itself_and_ends_with_the_plan(self) -> None:
        stream = io.StringIO()
        plain = Plain(stream, every=0.01)
        for event in started("web1"):
            plain(event)
        deadline = time.monotonic() + 10
        while "still working" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "still working" in stream.getvalue()
        plain(PlanFinished(deploy("web1"), 0, "live", 1))
        assert plain._closed.is_set()

    def test_a_finished_step_is_not_said_to_be_still_working(self) -> None:
        stream, now = io.StringIO(), [0.0]
        plain = Plain(stream, clock=lambda: now[0])
        for event in (*started("web1"), StepFinished("prepare", VENV.name, VENV.title, "web1", True, 1.0)):
            plain(event)
        plain.close()
        now[0] = 60
        plain.still()
        assert "still" not in stream.getvalue()

    def test_no_escape_sequence_of_a_server_reaches_the_log(self) -> None:
        for events in STORIES.values():
            stream = io.StringIO()
            plain = Plain(stream)
            for event in events:
                plain(event)
            assert "\x1b" not in stream.getvalue()


class TestConsole:
    def table(self, *hosts: str, **environ: str) -> str:
        now = [0.0]
        console = Console(screen(io.StringIO(), environ), clock=lambda: now[0])
        for event in started(*hosts):
            console(event)
        console(StepFinished("prepare", VENV.name, VENV.title, hosts[-1], True, 1.0))
        console(Said(hosts[0], VENV.name, "Downloading a package with quite a long name " * 3))
        console.close()
        now[0] = 12.34
        drawn = io.StringIO()
        screen(drawn, environ).print(console.table())
        return drawn.getvalue()

    def test_every_host_has_one_row_within_eighty_columns(self) -> None:
        drawn = re.sub(r"\x1b\[[0-9;]*m", "", self.table("web1", "web2", "web3"))
        rows = [line.rstrip() for line in drawn.rstrip("\n").split("\n")]
        assert all(len(line) <= 80 for line in rows)
        assert rows[0].split()[1:6] == ["web1", "install", "requirements", "12.3s", "Downloading"]
        assert rows[1].split()[1:] == ["web2", "install", "requirements", "12.3s"]
        assert rows[2].split() == ["web3", "waiting"]
        assert len(rows) == 3

    def test_no_color_is_honoured(self) -> None:
        assert "\x1b[36m" in self.table("web1", "web2")
        assert "\x1b[36m" not in self.table("web1", "web2", NO_COLOR="1")

    def test_the_cursor_comes_back_when_the_plan_dies(self) -> None:
        stream = io.StringIO()
        console = Console(screen(stream, {}))

        def dies() -> None:
            with together([console]) as report:
                for event in started("web1", "web2"):
                    report(event)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dies()
        assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0

    def test_stdout_is_left_alone_while_the_table_lives(self) -> None:
        console = Console(screen(io.StringIO(), {}))
        before = sys.stdout
        for event in started("web1"):
            console(event)
        try:
            assert sys.stdout is before
        finally:
            console.close()

    def test_many_hosts_take_one_line_per_step(self) -> None:
        stream = io.StringIO()
        hosts = tuple(f"web{one}" for one in range(1, 13))
        console = Console(screen(stream, {"NO_COLOR": "1"}))
        for event in started(*hosts):
            console(event)
        for place, host in enumerate(hosts):
            console(StepFinished("prepare", VENV.name, VENV.title, host, True, 1 + place / 10))
        console.close()
        assert "12 hosts 1.00s to 2.10s (slowest web12)" in stream.getvalue()


@pytest.mark.parametrize("kind", ["plain", "console", "jsonl", "summary"])
def test_events_from_many_threads_come_out_as_whole_lines(kind: str) -> None:
    stream = io.StringIO()
    reporter = {
        "plain": lambda: Plain(stream),
        "console": lambda: Console(screen(stream, {"NO_COLOR": "1"})),
        "jsonl": lambda: Jsonl(stream),
        "summary": lambda: github.Summary(stream, {}),
    }[kind]()
    hosts = tuple(f"web{one}" for one in range(1, 5))
    problems: list[BaseException] = []

    def work(host: str) -> None:
        try:
            for number in range(50):
                reporter(StepStarted("prepare", f"s{number}", f"step {number}", host))
                reporter(Said(host, f"s{number}", "said"))
                reporter(StepFinished("prepare", f"s{number}", f"step {number}", host, True, 0.01))
        except BaseException as problem:
            problems.append(problem)

    for event in started(*hosts):
        reporter(event)
    threads = [threading.Thread(target=work, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reporter(PlanFinished(deploy(*hosts), 0, f"{NEW} is live", 1, serves=dict.fromkeys(hosts, NEW)))
    reporter.close()
    assert not problems
    assert not any(thread.is_alive() for thread in threads)
    lines = stream.getvalue().splitlines()
    if kind == "plain":
        assert sum(line.endswith("0.01s") for line in lines) == 200
    if kind == "console":
        assert sum("✓ step" in line for line in lines) == 50
    if kind == "jsonl":
        assert sum(json.loads(line)["event"] == "step_finished" for line in lines) == 200


def test_a_reporter_that_breaks_is_dropped_and_the_plan_goes_on() -> None:
    class Broken:
        def __call__(self, event: Event) -> None:
            raise KeyError("a bug")

        def close(self) -> None:
            raise KeyError("another")

    stream = io.StringIO()
    with together([Broken(), Jsonl(stream)]) as report:
        for event in STORIES["two-hosts"]:
            report(event)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(one["event"] == "note" and one["warning"] and "KeyError" in one["text"] for one in told) == 1
    assert told[-1]["event"] == "plan_finished"


def test_a_reader_that_goes_away_neither_stops_the_plan_nor_changes_the_exit_code() -> None:
    program = """
import sys
from tasks.model.event import Note
from tasks.report.jsonl import Jsonl
from tasks.report.reporter import together
with together([Jsonl(sys.stdout)]) as report:
    report(Note("first"))
    sys.stdin.readline()
    for number in range(3):
        report(Note("x" * 100000))
sys.exit(5)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    assert json.loads(child.stdout.readline())["text"] == "first"
    child.stdout.close()
    child.stdin.write("go on\n")
    child.stdin.close()
    said = child.stderr.read()
    child.stderr.close()
    assert (child.wait(60), said) == (5, "")


def test_a_terminal_that_cannot_write_a_check_mark_still_gets_its_lines() -> None:
    raw = io.BytesIO()
    plain = Plain(io.TextIOWrapper(raw, encoding="ascii"))
    plain(Note("café → done"))
    assert raw.getvalue() == b"  caf? ? done\n"


class TestChoice:
    @pytest.mark.parametrize(
        ("environ", "isatty", "json_lines", "expected"),
        [
            ({}, True, False, ["Console"]),
            ({}, False, False, ["Plain"]),
            ({"TERM": "dumb"}, True, False, ["Plain"]),
            ({"CI": "true"}, True, False, ["Plain"]),
            ({}, True, True, ["Jsonl"]),
            ({"GITHUB_ACTIONS": "true"}, False, False, ["Plain", "Summary"]),
            ({"GITHUB_ACTIONS": "true"}, False, True, ["Jsonl", "Summary"]),
            ({"GITLAB_CI": "true"}, False, False, ["Plain"]),
        ],
    )
    def test_each_reader_gets_what_it_can_read(
        self, environ: dict[str, str], isatty: bool, json_lines: bool, expected: list[str]
    ) -> None:
        chosen = reporters(json=json_lines, environ=environ, isatty=isatty)
        assert [type(one).__name__ for one in chosen] == expected

    @pytest.mark.parametrize(
        ("environ", "mark"),
        [({"GITHUB_ACTIONS": "true"}, "::group::Prepare"), ({"GITLAB_CI": "true"}, "section_start")],
    )
    def test_phases_fold_in_ci(self, environ: dict[str, str], mark: str, capsys: pytest.CaptureFixture[str]) -> None:
        with together(reporters(environ=environ, isatty=False)) as report:
            for event in STORIES["two-hosts"]:
                report(event)
        seen = capsys.readouterr()
        assert seen.out == ""
        assert mark in seen.err

    def test_json_is_alone_on_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        with together(reporters(json=True, environ={}, isatty=True)) as report:
            for event in STORIES["put-back"]:
                report(event)
        seen = capsys.readouterr()
        assert seen.err == ""
        assert [json.loads(line)["event"] for line in seen.out.splitlines()][-1] == "plan_finished"

    def test_plain_talk_does_not_load_rich(self) -> None:
        program = (
            "import os, sys; from tasks.report.choose import reporters; reporters(environ={}, isatty=False);"
            "sys.exit('rich' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


class TestGithub:
    def run(self, story: str, folder: Path) -> tuple[str, str, str]:
        stream = io.StringIO()
        files = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_OUTPUT": str(folder / "output")}
        summary = github.Summary(stream, files)
        for event in STORIES[story]:
            summary(event)
        return stream.getvalue(), (folder / "summary.md").read_text(), (folder / "output").read_text()

    def test_a_failed_deploy_marks_the_run_and_leaves_its_outputs(self, tmp_path: Path) -> None:
        said, summary, output = self.run("put-back", tmp_path)
        assert said.count("::error title=deploy production put-back::") == 1
        assert "| from → to | 20261120-090000-1111111 → 20261122-101530-9f3c2ab |" in summary
        assert read_outputs(output) == {"release": NEW, "previous": "20261120-090000-1111111", "result": "put-back"}

    def test_a_good_deploy_is_no_error(self, tmp_path: Path) -> None:
        said, summary, output = self.run("two-hosts", tmp_path)
        assert said == ""
        assert "| commit | 9f3c2ab000000000000000000000000000000000 |" in summary
        assert read_outputs(output)["result"] == "done"

    def test_what_other_steps_wrote_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "output").write_text("mine=1\n")
        assert self.run("two-hosts", tmp_path)[2].startswith("mine=1\n")

    def test_a_value_cannot_add_an_output_of_its_own(self) -> None:
        facts = {"web1": {"previous": "old\nEOF\nresult=done"}}
        finished = PlanFinished(deploy("web1"), 1, "no", 1, facts=facts)
        read = read_outputs(github.outputs(finished))
        assert read["result"] == "failed"
        assert set(read) == {"release", "previous", "result"}

    def test_a_message_of_several_lines_is_one_annotation(self) -> None:
        line = github.error(PlanFinished(deploy("web1"), 1, "100% full: /var, /srv", 1, "look\nthere"))
        assert (
            line == "::error title=deploy production failed::deploy production: 100%25 full: /var, /srv%0Alook%0Athere"
        )

    @pytest.mark.parametrize("line", ["::add-mask::x", "   ::stop-commands::x", "text ##[group]x", "\t::error::x"])
    def test_server_output_never_commands_the_runner(self, line: str) -> None:
        safe = github.safe(line)
        assert not safe.lstrip().startswith("::")
        assert "##[" not in safe

    def test_a_log_with_a_fence_in_it_stays_in_its_block(self, tmp_path: Path) -> None:
        summary = self.run("put-back", tmp_path)[1]
        assert summary.count("````text") == 1
        assert summary.count("\n````\n") == 1

    def test_a_summary_that_cannot_be_written_is_only_a_warning(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        summary = github.Summary(stream, {"GITHUB_STEP_SUMMARY": str(tmp_path)})
        for event in STORIES["two-hosts"]:
            summary(event)
        assert stream.getvalue() == f"::warning title=fab-releases::GITHUB_STEP_SUMMARY: {os.strerror(21)}\n"


def read_outputs(text: str) -> dict[str, str]:
    """As the runner reads them: name<<delimiter, the value's lines, the delimiter alone."""
    read, lines = {}, iter(text.splitlines())
    for line in lines:
        name, _, delimiter = line.partition("<<")
        assert delimiter, f"not an output: {line}"
        value = []
        while (part := next(lines)) != delimiter:
            value.append(part)
        read[name] = "\n".join(value)
    return read
