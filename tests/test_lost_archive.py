"""Which of two sources a lost database comes from, and what stops somebody who is tired from losing a day for good."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import _lost_archive
from tasks._lost_archive import decided, lost_of_it
from tasks.config.load import load, stage
from tasks.model.errors import PreflightError, UsageError
from tasks.plans.recover import Loss, sound

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
DUMP = NOW - timedelta(hours=12)
DRILL = """\
application = "pos"
repository = "/srv/git/pos.git"
deploy_to = "/srv/pos"
default_stage = "production"

[django]
wsgi = "pos.wsgi:application"

[database]
engine = "postgresql"

[backup]
engine = "pgbackrest"
archive = "/mnt/archive"
repository = "/mnt/restic"

[stages.production]
hosts = [{ name = "one", address = "192.0.2.1" }]

[stages.drill]
hosts = [{ name = "two", address = "192.0.2.2" }]
backup = { repository = "" }

[stages.drill.recover]
variables = { EMAIL_BACKEND = "console" }
"""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lost_archive, "now", lambda: NOW)


def told(**archive: Any) -> dict[str, str]:
    return {"dump": DUMP.isoformat(), "archive": json.dumps(archive)}


def test_the_dump_is_taken_although_the_archive_goes_further() -> None:
    until = NOW - timedelta(hours=1)
    found = decided(told(until=until.isoformat(), followed=False), without=False, yes=True)
    assert found is not None
    assert found.is_used
    assert "11 h further than the newest dump" in found.said
    assert "really dead" not in found.said
    assert "another cluster" not in found.said
    assert "11 h that the newest dump does not have" in lost_of_it(found, until.isoformat())


def test_an_archive_that_stopped_long_ago_takes_the_place_of_a_newer_dump() -> None:
    found = decided(told(until=(DUMP - timedelta(days=1)).isoformat()), without=False, yes=True)
    assert found is not None
    assert not found.is_used
    assert "the dump is taken" in found.said


def test_a_server_that_still_writes_is_taken_for_dead() -> None:
    alive = decided(told(until=(NOW - timedelta(seconds=40)).isoformat(), followed=True), without=False, yes=True)
    assert alive is not None
    assert "is the lost server really dead?" in alive.said
    assert "another cluster has archived there since" in alive.said


@pytest.mark.parametrize("answer", [json.dumps({"error": "no key", "hint": "mount it"}), "", "[]"])
def test_yes_gives_away_what_only_an_archive_has(answer: str) -> None:
    """Said of the question, before anybody knew that the archive is not mounted."""
    facts = told() | {"archive": answer}
    with pytest.raises(PreflightError, match="the archive cannot be read") as caught:
        decided(facts, without=False, yes=True)
    assert "12 h" in caught.value.message
    assert "--without-archive" in caught.value.hint
    asked_for = decided(facts, without=True, yes=True)
    assert asked_for is not None
    assert not asked_for.is_used
    assert "12 h, is lost" in asked_for.said


def test_a_stage_without_an_archive_is_asked_for_one() -> None:
    assert decided({"release": "{}", "snapshot": "x"}, without=False, yes=True) is None


def test_a_drill_goes_on_with_the_archive_of_production(tmp_path: Path) -> None:
    """It would find the key in what it fetched, and its cluster would be the one that archives there from then on."""
    file = tmp_path / "releases.toml"
    file.write_text(DRILL)
    was, here = (stage(load(file), name) for name in ("production", "drill"))
    with pytest.raises(UsageError, match="archives its database"):
        sound(Loss(was, here, ("two",)))
    file.write_text(DRILL.replace('{ repository = "" }', '{ repository = "", engine = "dump" }'))
    sound(Loss(was, stage(load(file), "drill"), ("two",)))
