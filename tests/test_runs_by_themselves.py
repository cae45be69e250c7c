"""What timers leave in the journal must be read like any other line, and must never hide the way back."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.application import Release
from tests.local_hosts import Library, open_library

TEMPLATES = Path(__file__).parent.parent / "templates"
FAILED = TEMPLATES / "provision" / "failed.py"
LIVE = "20261120-090000-1111111"
SECRET = "/services/T0/do-not-tell"
sys.path.insert(0, str(TEMPLATES / "release"))

import project_journal  # noqa: E402


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Library]:
    for library in open_library(tmp_path / "host"):
        library.ok("prepare_folders; mkdir -p $DEPLOY_TO/backups/database")
        yield library


def journal(at: Library) -> Path:
    return at.folder / ".releases" / "journal.jsonl"


def test_lines_of_timers_and_of_people_are_one_journal(at: Library) -> None:
    """Numbers go on; half a line of a power loss is closed; a quote or a newline in a reason breaks nothing."""
    at.ok(f"journal live {LIVE} '' ada ''")
    project_journal.append(journal(at), "failed", LIVE, "timer", 'backup: "no"\nway', unit="backup")
    with journal(at).open("a") as file:
        file.write('{"seq": 3, "event": "li')
    project_journal.append(journal(at), "drill", LIVE, "timer", "proven", seconds=1.5)
    at.ok(f"journal live {LIVE} '' ada ''")
    whole = [json.loads(line) for line in journal(at).read_text().splitlines() if line.endswith("}")]
    assert [one["seq"] for one in whole] == [1, 2, 3, 4]
    assert whole[1]["note"] == 'backup: "no"\nway'
    facts = at.ok("survey_backups")
    assert json.loads(facts["failed_backup"])["note"] == 'backup: "no"\nway'


@pytest.mark.parametrize(("by", "recorded"), [("ada", True), ("", False)])
def test_a_drill_by_hand_that_fails_is_forgotten(at: Library, by: str, recorded: bool) -> None:
    """Also one that is killed and gives no answer; a look at a scratch copy proves nothing either way."""
    at.ok(f"journal live {LIVE} '' ada ''")
    for answer in ('{"error": "rows \\"differ\\"", "hint": "h"}', ""):
        program = f"project() {{ ANSWER={shlex.quote(answer)}; return 1; }}"
        assert "cannot be restored" in at.refused(f"{program}; rehearse database b false '{by}'")
    lines = [json.loads(line) for line in journal(at).read_text().splitlines()]
    failed = [(one["seq"], one["by"], one["note"], one["unit"]) for one in lines if one["event"] == "failed"]
    expected = [(2, by, 'drill: rows "differ"', "drill"), (3, by, "drill: it gave no answer", "drill")]
    assert failed == (expected if recorded else [])
    assert ("failed_drill" in at.ok("survey_backups")) is recorded


def test_a_year_of_drills_hides_the_release_to_go_back_to(at: Library) -> None:
    at.ok(f"journal live {LIVE} '' ada ''")
    for number in range(400):
        project_journal.append(journal(at), "drill", LIVE, "timer", f"proven {number}")
    result = at.session.run("survey 0", timeout=60)
    seen = [json.loads(mark.words[0]) for mark in result.marks if mark.kind == "journal"]
    assert [one["seq"] for one in seen if one["event"] == "live"] == [1]
    assert [one["seq"] for one in seen if one["event"] == "drill"] == list(range(372, 402))


def test_a_drill_after_a_cut_rollback_lets_the_bad_release_pass_for_a_good_one(at: Library) -> None:
    """What was rolled back from is bad, not retired: the newest line of a person says so."""
    at.ok(f"journal live {LIVE} {LIVE[:-1]}2 ada 'rollback to it'")
    project_journal.append(journal(at), "drill", LIVE, "timer", "proven")
    at.ok(f"rolled_back_from {LIVE[:-1]}2 {LIVE}")


def test_the_newest_backup_is_one_of_the_future(at: Library) -> None:
    """Dated by a wrong clock, it would hide for years that none is taken any more."""
    folder = at.folder / "backups" / "database"
    for name, taken in (
        ("20261101-023000", "2026-11-01T02:30:00+00:00"),
        ("20991231-235959", "2099-12-31T23:59:59+00:00"),
    ):
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "rows": {"a": 1}, "taken_at": taken}, indent=1))
    (folder / "20261101-023000.drill").write_text('{"at": "2026-11-02T04:30:00+00:00", "seconds": 2.5}')
    (folder / "20261122-023000.dump.part").touch()
    facts = at.ok("survey_backups")
    assert (facts["backup"], facts["backup_taken"]) == ("20261101-023000", "2026-11-01T02:30:00+00:00")
    assert facts["backup_proven"] == facts["backup_drilled"] == "2026-11-02T04:30:00+00:00"


def test_the_newest_backup_is_known_by_its_number_and_what_it_lacks_is_said(at: Library) -> None:
    folder = at.folder / "backups" / "database"
    lacks = ["only 'default' is in it: \"a]b\" is not", "b"]
    for name, more in (
        ("20261121-023000", {"sequence": 9}),
        ("20261101-023000", {"sequence": 10, "remarks": lacks}),
        ("20991231-235959", {"sequence": 8}),
        ("20991231-235959-2", {}),
    ):
        told = {"sequence": 0, "name": name, "rows": {"a": 1}, "taken_at": "2026-11-01T02:30:00+00:00", **more}
        (folder / f"{name}.json").write_text(json.dumps({key: value for key, value in told.items() if value}, indent=1))
    facts = at.ok("survey_backups")
    assert facts["backup"] == "20261101-023000"
    assert json.loads(facts["backup_remarks"]) == lacks


def test_without_any_backup_the_question_is_answered_all_the_same(at: Library) -> None:
    facts = at.ok("survey_backups")
    assert facts["backup_units"] == ""
    assert "backup" not in facts


@contextmanager
def room(status: int = 200) -> Iterator[tuple[str, list[bytes]]]:
    told: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{SECRET}", told
        finally:
            server.shutdown()
            thread.join(30)


def failed(folder: Path, url: str, unit: str = "pos-backup.service") -> subprocess.CompletedProcess[str]:
    """The program as its unit starts it, over a release whose environment file has the URL."""
    own = folder / "releases" / LIVE / ".release"
    own.mkdir(parents=True)
    (own / "launch.py").write_text((TEMPLATES / "release" / "launch.py").read_text())
    given = {"file": ".env", "format": "dotenv", "set": {}}
    services = {"release": LIVE, "directory": "", "shared": str(folder), "environment": given, "services": {}}
    (own / "services.json").write_text(json.dumps(services))
    (folder / ".env").write_text(f"CHAT={url}\n")
    (folder / "current").symlink_to(f"releases/{LIVE}")
    program = folder / "lib"
    program.mkdir()
    for path in (FAILED, TEMPLATES / "release" / "project_journal.py"):
        (program / path.name).write_text(path.read_text())
    at = {"application": "pos", "stage": "production", "current": str(folder / "current"), "variable": "CHAT"}
    words = json.dumps(at | {"journal": str(folder / "journal.jsonl")})
    return subprocess.run(
        ["/usr/bin/python3", "-IS", str(program / "failed.py"), words, unit],
        env={"PATH": os.environ["PATH"], "MONITOR_SERVICE_RESULT": "signal"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_run_that_fails_is_recorded_and_told_without_the_address(tmp_path: Path) -> None:
    with room() as (url, told):
        done = failed(tmp_path, url)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    recorded = json.loads(line)
    assert (recorded["event"], recorded["release"], recorded["unit"]) == ("failed", LIVE, "backup")
    message = json.loads(told[0])
    assert message["text"].startswith("pos (production): the backup that runs by itself failed: it ended with signal")
    assert SECRET not in line + told[0].decode()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "ftp://nobody/x", "", "nonsense'\"$(id)"])
def test_a_room_that_is_not_there_costs_the_record_or_tells_its_address(tmp_path: Path, url: str) -> None:
    done = failed(tmp_path, url)
    assert done.returncode == 0
    assert (tmp_path / "journal.jsonl").read_text().count("\n") == 1
    assert len(done.stderr.splitlines()) == 1
    assert not url or url not in done.stderr


def test_a_room_that_refuses_is_said_by_its_status(tmp_path: Path) -> None:
    with room(403) as (url, _):
        assert "it answered 403" in failed(tmp_path, url).stderr


def test_neither_recorded_nor_told_is_a_failure_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    done = failed(tmp_path, "http://127.0.0.1:1/x")
    assert done.returncode == 1
    assert "could not be written" in done.stderr


def test_the_timer_and_a_person_in_the_same_second_spoil_each_others_backup(bare: Release, tmp_path: Path) -> None:
    """Six at once on one database: six whole ones, six names, and nothing half made is left."""
    bare.ok("migrate")
    keep = {"daily": 7, "weekly": 4, "monthly": 6}
    words = bare.command("backup", directory=str(tmp_path / "backups"), keep=keep)
    quiet = {"cwd": bare.root, "env": bare.environ(), "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(words, text=True, **quiet) for _ in range(6)]
    said = [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in running]
    assert len({one["name"] for one in said}) == 6
    assert sorted(path.stem for path in (tmp_path / "backups").glob("*.json")) == sorted(one["name"] for one in said)
    assert not list((tmp_path / "backups").glob("*.part"))


def test_a_drill_by_itself_takes_the_newest_and_says_how_long_it_took(bare: Release, tmp_path: Path) -> None:
    bare.ok("migrate")
    arguments = {"directory": str(tmp_path / "backups"), "journal": str(tmp_path / "journal.jsonl")}
    assert "There is no backup" in bare.refused("drill", **arguments)["error"]
    taken = bare.ok("backup", **arguments, keep={"daily": 1, "weekly": 0, "monthly": 0})
    ahead = Path(taken["manifest"]).with_name("20991231-235959.json")
    ahead.write_text(Path(taken["manifest"]).read_text())
    done = bare.ok("drill", **arguments)
    assert done["name"] == taken["name"]
    proof = json.loads((tmp_path / "backups" / f"{taken['name']}.drill").read_text())
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    recorded = json.loads(line)
    assert (recorded["event"], recorded["by"], recorded["seconds"]) == ("drill", "timer", proof["seconds"])
    assert "(RTO)" in recorded["note"]


def test_a_proof_outlives_the_backup_it_was_of(bare: Release, tmp_path: Path) -> None:
    """What was proven and is broken now counts as not proven."""
    bare.ok("migrate")
    arguments = {"directory": str(tmp_path / "backups")}
    taken = bare.ok("backup", **arguments, keep={"daily": 1, "weekly": 0, "monthly": 0})
    bare.ok("drill", **arguments)
    proof = tmp_path / "backups" / f"{taken['name']}.drill"
    assert proof.exists()
    with (tmp_path / "backups" / taken["file"]).open("r+b") as file:
        file.truncate(1000)
    assert "differ" in bare.refused("drill", **arguments)["error"]
    assert not proof.exists()
