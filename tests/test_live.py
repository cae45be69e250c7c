"""What serves users goes on, and comes back to where it was, whatever became of `current`, the journal, a release.json.

The real library over a folder; a service is a file. What an interrupted run leaves is tested in test_crash_plans.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.model.call import call
from tasks.model.errors import PreflightError
from tasks.model.facts import HostFacts
from tasks.model.release import JournalEntry, Release
from tasks.model.shell import script
from tasks.plans import rollback
from tasks.server import releases
from tests.local_hosts import Library, open_library

IDS = [f"2026112{number}-000000-{number:07x}" for number in range(9)]
OLD, LIVE = IDS[1], IDS[2]
PROBE = """
probe() { # through the front door: what runs answers, by `current`, as the release it is
  local asked=$2
  [ -e "$RUNNING/web@$1" ] && [ "$(current_id)" = "$1" ] && [ -e "$DEPLOY_TO/current/web.sock" ] || return 1
  case $asked in *'"release": "'*) [[ $asked == *"\\"release\\": \\"$1\\""* ]] ;; esac
}
queue_empty() { :; }
"""


def say(*words: str) -> str:
    return script(words).text()


def asked(id: str) -> str:
    return json.dumps({"url": "http://x/", "release": id})


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Library]:
    """Two releases went live, one after the other; the second serves."""
    for library in open_library(tmp_path / "host", PROBE):
        library.ok("prepare_folders")
        for number, id in enumerate((OLD, LIVE)):
            folder = library.folder / "releases" / id
            (folder / ".release").mkdir(parents=True)
            (folder / ".venv" / "bin").mkdir(parents=True)
            (folder / ".venv" / "bin" / "python").symlink_to("/bin/sh")
            (folder / ".release" / "services.json").write_text("{}")
            (folder / "manage.py").write_text("")
            (folder / "web.sock").write_text("")
            told = Release(id, f"{number}" * 40, "main", files=3, state="retired" if id == OLD else "live")
            (folder / "release.json").write_text(told.to_json())
            before = say("journal", "live", id, OLD if id == LIVE else "", "ada", "")
            library.ok(before + say("point_current", id) + "fake_prepare\n")
        library.ok(say("services_started", LIVE))
        yield library


def running(at: Library) -> set[str]:
    return {path.name for path in (at.folder / "running").iterdir()}


def current(at: Library) -> str:
    place = at.folder / "current"
    return place.resolve().name if place.is_symlink() else ""


def states(at: Library) -> dict[str, str]:
    found = sorted((at.folder / "releases").glob("*/release.json"))
    return {path.parent.name: json.loads(path.read_text())["state"] for path in found}


def last_line(at: Library) -> dict[str, str]:
    return dict(json.loads((at.folder / ".releases/journal.jsonl").read_text().splitlines()[-1]))


def repair(at: Library, request: str = asked(LIVE)) -> list[str]:
    """What people are warned of; `request` is made from what a survey took for the live release."""
    result = at.session.run(say("repair", request, "ada"), timeout=60)
    assert result.ok, (result.error, result.log)
    return [mark.words[0] for mark in result.marks if mark.kind == "warn"]


def replaced(at: Library, target: str) -> None:
    (at.folder / "current").unlink()
    (at.folder / "current").symlink_to(target)


def journal(at: Library) -> Path:
    return at.folder / ".releases" / "journal.jsonl"


def no_current(at: Library) -> None:
    (at.folder / "current").unlink()


def torn(at: Library) -> None:
    no_current(at)
    journal(at).write_text(journal(at).read_text() + '{"seq": 3, "event": "li')


def damaged_lines(at: Library) -> None:
    no_current(at)
    lines = journal(at).read_text().splitlines()
    journal(at).write_text("\0\0\0\0\n[1]\n" + lines[0] + "\n{\x00}\n" + lines[1] + "\n")


def no_journal(at: Library) -> None:
    no_current(at)
    journal(at).unlink()


def damaged_release(at: Library) -> None:
    (at.folder / "releases" / LIVE / "release.json").write_text('{"id": "2026')


def no_release(at: Library) -> None:
    (at.folder / "releases" / LIVE / "release.json").unlink()


def neither(at: Library) -> None:
    no_current(at)
    damaged_release(at)


BROKEN: dict[str, Callable[[Library], None]] = {
    "current was removed": no_current,
    "current leads nowhere": lambda at: replaced(at, f"releases/{IDS[7]}"),
    "current leads to nothing at all": lambda at: replaced(at, "/nowhere/at/all"),
    "current leads out of releases": lambda at: replaced(at, "../elsewhere"),
    "current leads to a folder of the same name elsewhere": lambda at: replaced(at, f"shared/{LIVE}"),
    "current leads to releases": lambda at: replaced(at, "releases"),
    "current is gone, and the journal is torn": torn,
    "current is gone, and lines of the journal are damaged": damaged_lines,
    "current and the journal are gone": no_journal,
    "the live release.json is damaged": damaged_release,
    "the live release.json is gone": no_release,
    "current is gone, and the live release.json is damaged": neither,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_was_live_is_live_again_and_its_services_were_never_stopped(at: Library, broken: str) -> None:
    (at.folder / "shared" / LIVE).mkdir()
    before = running(at)
    assert before == {f"web@{LIVE}", f"worker@{LIVE}", "beat"}
    BROKEN[broken](at)
    asked_for = asked(current(at) if "release.json" in broken and "gone, and" not in broken else "live")
    told = repair(at, asked_for)
    assert told, "it says what it found"
    for _ in range(2):  # and once more: nothing changes
        assert current(at) == LIVE
        assert (at.folder / "current").readlink() == Path("releases") / LIVE
        assert running(at) == before
        assert states(at) == {OLD: "retired", LIVE: "live"}
        assert repair(at) == []
    stopped = [mark for mark in at.session.run("true").marks if mark.kind == "warn"]
    assert stopped == []


def test_services_that_do_not_run_are_started_when_current_is_put_back(at: Library) -> None:
    """The server was booted meanwhile: without `current` nothing came up."""
    no_current(at)
    for path in (at.folder / "running").iterdir():
        path.unlink()
    repair(at, asked(""))
    assert current(at) == LIVE
    assert f"web@{LIVE}" in running(at)


def test_a_live_release_whose_files_are_gone_gives_way_to_the_one_before_and_to_no_older_one(at: Library) -> None:
    """What comes back is asked as itself: with the id of the one that is gone it was found unwell, and went as well."""
    shutil.rmtree(at.folder / "releases" / LIVE)
    repair(at, asked(LIVE))
    assert (current(at), states(at)) == (OLD, {OLD: "live"})
    assert last_line(at)["event"] == "repaired"


def test_an_incomplete_release_that_answers_users_is_left_to_them(at: Library) -> None:
    shutil.rmtree(at.folder / "releases" / LIVE / ".venv")
    [told] = repair(at)
    assert "is not complete" in told
    assert ".venv" in told
    assert (current(at), states(at)[LIVE]) == (LIVE, "live")
    assert f"web@{LIVE}" in running(at)


def test_nothing_is_stopped_or_chosen_where_it_is_not_known_what_was_live(at: Library) -> None:
    no_journal(at)
    for id in (OLD, LIVE):
        (at.folder / "releases" / id / "release.json").write_text("")
    at.ok(say("services_started", OLD))
    before = running(at)
    error = at.refused(say("repair", asked(""), "ada"))
    assert "it is not known which release was live" in error
    assert running(at) == before
    assert current(at) == ""
    assert {path.name for path in (at.folder / "releases").iterdir()} == {OLD, LIVE}


def test_the_one_release_that_runs_is_taken_for_live_where_nothing_else_says_so(at: Library) -> None:
    no_journal(at)
    for id in (OLD, LIVE):
        (at.folder / "releases" / id / "release.json").write_text("")
    repair(at, asked(""))
    assert (current(at), states(at)[LIVE]) == (LIVE, "live")


def test_a_first_deploy_that_died_leaves_nothing_running(tmp_path: Path) -> None:
    """Nothing was ever live, and that is known."""
    for at in open_library(tmp_path / "host", PROBE):
        at.ok("prepare_folders")
        folder = at.folder / "releases" / OLD
        (folder / ".release").mkdir(parents=True)
        (folder / ".release" / "services.json").write_text("{}")
        (folder / "release.json").write_text(Release(OLD, "0" * 40, "main", state="ready").to_json())
        at.ok("fake_prepare\n" + say("services_started", OLD) + say("repair", asked(""), "ada"))
        assert current(at) == ""
        assert running(at) <= {"beat"}


def test_a_withdrawn_first_release_is_not_put_back(tmp_path: Path) -> None:
    for at in open_library(tmp_path / "host", PROBE):
        at.ok("prepare_folders")
        folder = at.folder / "releases" / OLD
        (folder / ".release").mkdir(parents=True)
        (folder / ".release" / "services.json").write_text("{}")
        (folder / "release.json").write_text(Release(OLD, "0" * 40, "main", state="bad").to_json())
        at.ok(say("journal", "live", OLD, "", "ada", "") + say("journal", "withdrawn", OLD, "", "ada", ""))
        at.ok(say("repair", asked(""), "ada"))
        assert current(at) == ""


def test_a_damaged_release_json_is_written_again_and_the_release_stays_one_to_go_back_to(at: Library) -> None:
    (at.folder / "releases" / OLD / "release.json").write_text("\0" * 300)
    repair(at)
    told = json.loads((at.folder / "releases" / OLD / "release.json").read_text())
    assert (told["id"], told["state"]) == (OLD, "retired")


def test_a_rollback_passes_over_a_release_that_is_not_complete() -> None:
    states = ("retired", "retired", "live")
    found = tuple(Release(id, "0" * 40, "main", state=one) for id, one in zip(IDS, states, strict=False))  # type: ignore[arg-type]
    entries = tuple(JournalEntry(seq, "live", id) for seq, id in enumerate(IDS[:3], 1))
    seen = HostFacts("one", IDS[2], found, entries)
    assert rollback.target({"one": seen}) == IDS[1]
    assert rollback.target({"one": replace(seen, incomplete=(IDS[1],))}) == IDS[0]
    with pytest.raises(PreflightError, match="is not complete"):
        rollback.target({"one": replace(seen, incomplete=(IDS[1],))}, to=IDS[1])
    assert not seen.undecided
    assert replace(seen, current="").undecided
    assert replace(seen, incomplete=(IDS[2],)).undecided


INCOMPLETE: dict[str, Callable[[Path], object]] = {
    "no environment": lambda folder: shutil.rmtree(folder / ".venv"),
    "no services": lambda folder: (folder / ".release" / "services.json").unlink(),
    "a part of the checkout": lambda folder: (folder / "manage.py").unlink(),
    "no release.json": lambda folder: (folder / "release.json").unlink(),
}


@pytest.mark.parametrize("how", INCOMPLETE)
def test_nobody_goes_back_to_a_release_that_is_not_complete(at: Library, how: str) -> None:
    at.ok(script(call(releases.refuse_incomplete, OLD)).text())
    INCOMPLETE[how](at.folder / "releases" / OLD)
    error = at.refused(script(call(releases.refuse_incomplete, OLD)).text())
    assert f"release {OLD} is not complete" in error
