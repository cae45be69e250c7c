"""Backups that stopped, failed or were never restored must be said, by every page in the same words."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.model.backup import Backup, Fate, Saved
from tasks.model.config import Environment, Host, Notify
from tasks.model.facts import HostFacts
from tasks.model.moment import at_or_before, moment
from tasks.model.standing import Standing
from tasks.remote import backup, doctor, machine, retention, roles
from tasks.remote.doctor import backups as asked
from tasks.remote.doctor.question import Answer
from tasks.remote.machine import stores
from tasks.report import backups as page
from tasks.report import tables

from .local_hosts import make_stage
from .test_report_docs import documented

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AWAY = Backup(repository="sftp:backup@203.0.113.9:/srv/pos")
UNITS = "backup.timer=active backup=inactive drill.timer=active drill=inactive offsite=inactive"


def ago(**passed: float) -> str:
    return (NOW - timedelta(**passed)).isoformat(timespec="seconds")


def failed(run: str, reason: str, **passed: float) -> dict[str, str]:
    note = f"{run}: {reason}"
    return {f"failed_{run}": json.dumps({"seq": 9, "event": "failed", "at": ago(**passed), "note": note, "unit": run})}


WELL = {
    "backup": "20261122-023000",
    "backup_taken": ago(hours=9.5),
    "backup_proven": "",
    "backup_drilled": ago(days=3),
    "backup_sent": ago(hours=9),
    "backup_units": UNITS,
}


def standing(wanted: Backup = AWAY, **facts: str) -> Standing:
    found = Standing.from_facts(wanted, {**WELL, **facts})
    assert found is not None
    return found


def unwell(found: Standing) -> dict[str, str]:
    return {one.what: one.said for one in found.judged(NOW) if not one.is_well}


def test_what_is_well_is_one_quiet_line() -> None:
    found = standing()
    assert found.is_well(NOW)
    assert found.line(NOW) == "the newest is 9 h old, not proven"
    assert standing(backup_proven=ago(hours=2)).line(NOW) == "the newest is 9 h old, proven 2 h ago"


@pytest.mark.parametrize(
    ("facts", "what", "says"),
    [
        ({"backup": "", "backup_taken": ""}, "backup", "there is no backup"),
        ({"backup_taken": ago(hours=27)}, "backup", "27 h old, not proven: overdue"),
        ({"backup_units": UNITS.replace("backup.timer=active", "backup.timer=inactive")}, "backup-timer", "inactive"),
        (failed("backup", "no route to it", hours=3), "backup-timer", "failed, 3 h ago: no route to it"),
        ({"backup_units": UNITS.replace("backup=inactive", "backup=failed")}, "backup-timer", "last run failed"),
        ({"backup_units": f"{UNITS} archive=failed"}, "backup-timer", "the archive's last run failed"),
        ({"backup_drilled": ""}, "drill", "none is proven"),
        ({"backup_drilled": ago(days=9)}, "drill", "9 d ago: overdue"),
        (failed("drill", "rows differ", days=1), "drill", "the last drill failed, 24 h ago: rows differ"),
        ({"backup_units": UNITS.replace("drill.timer=active", "drill.timer=inactive")}, "drill", "no timer proves"),
        ({"backup_sent": ""}, "off-site", "nothing was sent away yet"),
        ({"backup_sent": ago(days=3)}, "off-site", "is 2 d older than the newest backup"),
        (failed("offsite", "it ended with exit-code", hours=1), "off-site", "failed, 60 min ago|failed, 1 h ago"),
    ],
)
def test_what_went_wrong_is_named_once_with_what_to_do(facts: dict[str, str], what: str, says: str) -> None:
    found = standing(**facts)
    assert list(unwell(found)) == [what]
    assert any(part in unwell(found)[what] for part in says.split("|"))
    assert not found.is_well(NOW)
    assert unwell(found)[what] in found.line(NOW)
    assert all(one.hint for one in found.judged(NOW) if not one.is_well)


@pytest.mark.parametrize(("run", "fact"), [("backup", "taken"), ("drill", "drilled"), ("offsite", "sent")])
def test_a_failure_that_was_made_good_is_not_told_for_ever(run: str, fact: str) -> None:
    before = failed(run, "long ago", days=5)
    assert standing(**before, **{f"backup_{fact}": ago(hours=4)}).is_well(NOW)


def test_a_failure_from_before_a_reboot_is_forgotten() -> None:
    """systemd knows nothing of it any more; the journal does."""
    found = standing(**failed("backup", "disk full", hours=5), backup_taken=ago(hours=20))
    assert "disk full" in found.line(NOW)


def test_drills_are_missed_by_their_own_interval() -> None:
    late = {"backup_drilled": ago(days=20)}
    assert "drill" in unwell(standing(Backup(drill="weekly"), **late))
    assert "drill" in unwell(standing(Backup(drill="daily"), backup_drilled=ago(days=3)))
    assert "drill" not in unwell(standing(Backup(drill="monthly"), **late))
    never = standing(Backup(drill="never"), **late, backup_units=UNITS.replace("drill.timer=active", ""))
    assert "drill" not in unwell(never)


def test_a_stage_without_backups_is_silent() -> None:
    assert Standing.from_facts(AWAY, {}) is None
    assert "backups" not in tables.status((HostFacts("web1"),), NOW)
    assert tables.status_json((HostFacts("web1"),), NOW)["backups"] is None


COPIED = {"place": "/var/backups/fab-releases/pos", "here": True, "folders": {"media": [12, 3400]}}


def copied(*remarks: str, **more: object) -> str:
    return json.dumps(COPIED | {"remarks": remarks, "problems": [], "notes": []} | more)


def test_backups_on_their_server_only_are_named_each_time_and_are_no_fault() -> None:
    found = standing(Backup(), backup_copied=copied())
    assert found.is_well(NOW)
    assert "backups are on this server only (set [backup] repository" in found.line(NOW)
    assert unwell(found) == {"off-site": "backups are on this server only"}
    (files,) = [one.said for one in found.judged(NOW) if one.what == "backup-files"]
    assert files == "media: 12 files; configuration, copied 9 h ago"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"backup_sent": ""}, "media and configuration are in no backup yet"),
        ({"backup_sent": ago(days=3), "backup_copied": copied()}, "older than the newest backup"),
        ({"backup_copied": copied("media has 5 files, and had 20 within the last week")}, "media has 5 files"),
        (failed("offsite", "media has no file any more", hours=1), "copying media and configuration failed, "),
    ],
)
def test_media_that_are_in_no_backup_are_named(facts: dict[str, str], said: str) -> None:
    found = standing(Backup(), **facts)
    assert not found.is_well(NOW)
    assert said in unwell(found)["backup-files"]


def test_a_copy_away_from_the_server_that_lost_files_is_named() -> None:
    found = standing(backup_copied=copied("media is a link", here=False))
    assert unwell(found)["backup-files"] == "media is a link"


def test_a_sandbox_is_not_asked_for_timers() -> None:
    found = standing(Backup(), backup_units="")
    assert [one.what for one in found.judged(NOW)] == ["backup", "drill"]


def test_status_says_it_in_one_line_and_to_programs() -> None:
    found = standing(**failed("backup", "could not connect\x1b[31m", hours=3))
    beside = tables.Beside(backups=found)
    text = tables.status((HostFacts("web1"),), NOW, beside=beside)
    line = next(one for one in text.splitlines() if one.startswith("backups: "))
    assert line.endswith(r"failed, 3 h ago: could not connect\x1b[31m (fab logs --service backup)")
    told = json.loads(json.dumps(tables.status_json((HostFacts("web1"),), NOW, beside)))["backups"]
    assert told["taken_at"] == WELL["backup_taken"]
    assert told["proven_at"] is None
    assert not told["is_well"]
    assert [one["what"] for one in told["aspects"]] == ["backup", "backup-timer", "drill", "off-site"]


def test_check_has_a_line_for_each_of_them() -> None:
    text = "\n".join(f"{name} {value}" for name, value in {**WELL, **failed("drill", "rows differ", hours=3)}.items())
    found = {one.what: (one.state, bool(one.hint)) for one in asked.read(Answer(text), AWAY, NOW)}
    assert found == {
        "backup": ("ok", False),
        "backup-timer": ("ok", False),
        "drill": ("look", True),
        "off-site": ("ok", False),
    }


APART = {"backup_sent": ago(hours=9), "backup_units": "offsite.timer=active offsite=inactive"}


@pytest.mark.parametrize(
    ("facts", "says", "well"),
    [
        ({}, "were sent away 9 h ago", True),
        ({"backup_sent": ago(hours=27)}, "27 h ago: overdue", False),
        ({"backup_sent": ""}, "were not sent away yet", False),
        ({"backup_units": "offsite.timer=inactive"}, "no timer sends", False),
        ({"backup_units": "offsite.timer=active offsite=failed"}, "away failed", False),
        (failed("offsite", "it ended with exit-code", hours=3), "away failed, 3 h ago: it ended with exit-code", False),
        (failed("offsite", "it ended with exit-code", days=3), "were sent away 9 h ago", True),
    ],
)
def test_the_database_has_a_host_of_its_own_which_nobody_watches(facts: dict[str, str], says: str, well: bool) -> None:
    hosts = (Host(name="app1"), Host(name="data", roles=("postgresql",)))
    stage = replace(make_stage(Path("/srv/pos")), application="pos", hosts=hosts, backup=AWAY)
    said = {**APART, **facts}
    text = "\n".join(f"{name} {value}" for name, value in said.items())
    (question,) = [one for one in doctor.questions(stage, hosts[1], "main", NOW) if one.what == "off-site"]
    (found,) = question.heard(Answer(text))
    assert (found.what, found.state, bool(found.hint)) == ("off-site", "ok" if well else "look", not well)
    assert says in found.value
    marks = [("fact", name, value) for name, value in said.items()]
    (state,) = roles.parse(stage, "data", marks, NOW)
    assert (state.host, state.role, state.state) == ("data", "off-site", found.value)
    assert state.is_well is (well or not said["backup_sent"]), "a new server that has not sent anything yet is well"
    assert ("survey_apart",) in roles.look(stage, hosts[1]).calls
    assert ("survey_apart",) not in roles.look(stage, hosts[0]).calls


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('CHAT="https://chat.test/do-not-tell"\n', True),
        ("OTHER=x\n", False),
        (None, False),
        ("CHAT='unclosed", False),
    ],
)
def test_that_host_does_not_know_whom_to_tell(text: str | None, known: bool) -> None:
    """It learns it from the application's environment file, and says it to nobody else."""
    hosts = (Host(name="app1", address="192.0.2.1"), Host(name="data", roles=("postgresql",), address="192.0.2.2"))
    stage = replace(make_stage(Path("/srv/pos")), application="pos", hosts=hosts, backup=AWAY)
    stage = replace(stage, notify=Notify(webhook_variable="CHAT"), environment=Environment())
    parts = machine.parts(stage, hosts[1], {"os": "debian 12", "ssh_port": "22"}, stores.seeds_of(text))
    (failures,) = [one for one in parts if one.name == "failures"]
    notified = [thing for thing in failures.things if thing.name == "file /etc/fab-releases/pos.notify"]
    assert bool(notified) is known
    said = "".join(one.make.text() for one in failures.things).replace("\\", "")
    assert ('"variable": "CHAT"' in said) is known
    shown = "".join(f"{one.name} {one.want} {one.make.shown()}" for one in failures.things)
    assert "do-not-tell" not in shown
    if known:
        assert 'CHAT="https://chat.test/do-not-tell"' in notified[0].make.text().replace("\\", "")
    assert "failures" in [
        one.name for one in machine.parts(stage, hosts[0], {"os": "debian 12"}, stores.seeds_of(text))
    ]
    assert "OnFailure=pos-failed@%n.service" in "".join(one.make.text() for part in parts for one in part.things)


def test_a_failure_of_that_host_is_told_twice() -> None:
    said = Answer("failed pos-offsite.service\nfailed unlucky.service")
    told = [one.value for one in doctor.roles.read_failed(said, ("pos-offsite.service",))]
    assert told == ["unlucky.service has failed"]


def test_what_a_server_says_can_be_nonsense() -> None:
    facts = {"backup_taken": "soon", "backup_units": "= x backup", "failed_backup": "{", "failed_drill": '{"at": 1}'}
    assert "there is no backup" in standing(**facts).line(NOW)


def saved(days: float, proven: str = "", kind: str = "backup") -> Saved:
    taken = NOW - timedelta(days=days)
    seconds = "12.3" if proven else ""
    return Saved(f"{taken:%Y%m%d-%H%M%S}", kind, taken, "r", 5_000_000, 1234).with_proof(proven, seconds)


def test_what_keeps_a_backup_and_what_goes_next_is_told() -> None:
    found = (saved(0.4), *(saved(day) for day in range(1, 9)), saved(70, ago(days=69)))
    fates = retention.fates(found, Backup(daily=7, weekly=0, monthly=0), NOW)
    assert fates[found[0].name] == Fate("the newest", goes_next=False)
    assert fates[found[-1].name] == Fate("the newest that was proven", goes_next=False)
    assert fates[found[1].name].why == "daily: 2026-11-21"
    assert [one.name for one in found if fates[one.name].goes_next] == [one.name for one in found[6:9]]
    text = page.to_text(found, (), NOW, standing=standing(), fates=fates)
    assert f"{found[6].name}  backup  6 d ago" in text
    assert "daily: 2026-11-16, goes next" in text
    told = page.to_json(found, (), standing(), fates)["backups"]
    assert [one["goes_next"] for one in told].count(True) == 3
    assert told[-1]["proof_seconds"] == 12.3


def marks(*manifests: dict[str, object]) -> list[tuple[str, ...]]:
    whole = [{"name": f"n{one['sequence']}", "release": "r", "bytes": 1, "rows": {"t": 1}, **one} for one in manifests]
    return [("saved", "backup", base64.b64encode(json.dumps(one).encode()).decode(), "", "") for one in whole]


def test_backups_are_in_the_order_of_their_numbers_and_a_wrong_date_is_said() -> None:
    found = backup.parse(
        marks(
            {"sequence": 1, "taken_at": "2026-11-19T02:30:00+00:00"},
            {"sequence": 2, "taken_at": "2031-01-01T02:30:00+00:00"},
            {"sequence": 3, "taken_at": "2026-11-20T02:30:00+00:00"},
            {"sequence": 4, "taken_at": "2001-01-01T02:30:00+00:00", "remarks": ["audit is not in it"]},
        )
    )
    assert [one.name for one in found] == ["n4", "n3", "n2", "n1"]
    assert [one.wrong_date[:4] for one in found] == ["2001", "", "2031", ""]
    latest, before = moment("latest", NOW), moment("2026-11-19T12:00Z", NOW)
    assert [one.name for wanted in (latest, before) if (one := at_or_before(found, wanted))] == ["n4", "n1"]
    text = page.to_text(found, {}, NOW)
    assert "n2 says it was taken 2031-01-01T02:30:00+00:00, which does not fit its number: a clock was wrong" in text
    assert page.to_json(found, {})["backups"][0]["remarks"] == ["audit is not in it"]


def test_the_latest_is_the_newest_also_where_its_clock_was_ahead() -> None:
    found = backup.parse(
        marks(
            {"sequence": 1, "taken_at": "2026-11-19T02:30:00+00:00"},
            {"sequence": 2, "taken_at": "2031-01-01T02:30:00+00:00"},
        )
    )
    chosen = at_or_before(found, moment("latest", NOW))
    assert chosen
    assert chosen.name == "n2"


def test_a_newest_that_is_dated_later_than_now_is_not_taken_for_a_fresh_one() -> None:
    assert (
        "is dated 2031-01-01 02:30:00 UTC, later than now: a clock was wrong"
        in unwell(standing(backup_taken="2031-01-01T02:30:00+00:00"))["backup"]
    )


def test_what_the_newest_does_not_hold_is_said_where_people_look() -> None:
    """As long as it is so; it is no fault of a run, and alarms nobody again and again."""
    found = standing(backup_remarks='["audit is not in it", "b", "c"]')
    assert unwell(found) == {"backup-contents": "audit is not in it; b; and 1 more"}
    assert "audit is not in it" in found.line(NOW)
    assert found.is_well(NOW)
    assert "audit is not in it" in page.to_text((saved(1),), {}, NOW, standing=found)
    assert unwell(standing(backup_remarks="{nonsense")) == {}


def test_a_backup_nobody_restored_is_called_good() -> None:
    text = page.to_text((saved(1), saved(2, ago(days=1))), (), NOW)
    assert "not proven" in text.splitlines()[1]
    assert "24 h ago, in 12.3s" in text.splitlines()[2]
    assert "good" not in text


def test_what_a_restore_would_be_without_is_listed_with_the_statement_that_makes_it() -> None:
    manifest = {"name": "n", "taken_at": NOW.isoformat(), "bytes": 1, "rows": {}, "left_out": [
        {"what": "publication p", "statement": "CREATE PUBLICATION p\n FOR ALL TABLES;", "reason": "must be superuser"},
        {"what": "comment on publication p", "statement": "COMMENT ON ...;", "reason": "no p", "follows": True},
        {"what": "subscription s", "statement": "", "reason": "\x1b]52;c;eA\x07"},
    ]}  # fmt: skip
    one = Saved.from_json("backup", json.dumps(manifest))
    text = page.to_text((one,), (), NOW)
    assert "  publication p (must be superuser); afterwards, as postgres: CREATE PUBLICATION p  FOR ALL TABLES;" in text
    assert "comment on" not in text
    assert "\x1b" not in text
    assert page.named(one.left_out) == "publication p, subscription s"
    assert page.to_json((one,), ())["backups"][0]["left_out"][1]["what"] == "comment on publication p"
    untried = Saved.from_json("backup", json.dumps({**manifest, "left_out": [], "untried": "no room"}))
    assert "whether all of n can be restored was not tried: no room" in page.to_text((untried,), (), NOW)


def test_status_says_that_a_restore_would_be_without_something() -> None:
    facts = {"backup_units": "backup.timer=active drill.timer=active", "backup": "b", "backup_taken": NOW.isoformat()}
    found = Standing.from_facts(Backup(), {**facts, "backup_left_out": "2"})
    assert found is not None
    assert "a restore is without 2 things of it: fab backups" in found.line(NOW)


def test_what_programs_get_is_documented() -> None:
    told = page.to_json((saved(1),), (), standing())
    fields = documented()
    assert [name for name, _ in fields["`fab backups --json`"]] == [*told, "archive"]
    assert [name for name, _ in fields["A backup"]] == [*told["backups"][0]]
    assert [name for name, _ in fields["`fab status --json`: `backups`"]] == [*page.standing_json(standing(), NOW)]
