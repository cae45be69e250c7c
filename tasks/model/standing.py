"""How the backups of a stage stand: their age, their proof, how the runs of their timers ended, and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from .backup import Backup
from .files_copy import FilesCopy
from .moment import age

OVERDUE = timedelta(hours=26)
"""Of a daily backup: a day, and the hours a slow one may take."""
DRILLS = {"daily": timedelta(days=2), "weekly": timedelta(days=8), "monthly": timedelta(days=33)}
"""After which a drill has been missed: its interval, and a day in which a server was off."""
AHEAD = timedelta(minutes=10)
"""By which the clocks of a server and of this machine may differ."""
BEHIND = timedelta(days=1)
"""Of the copy away from the server, behind the newest backup."""

RUNS = ("backup", "drill", "offsite", "archive")
"""What timers run, as the units are called behind the application's name."""

Aspect = Literal["backup", "backup-contents", "backup-timer", "drill", "backup-files", "off-site"]


@dataclass(frozen=True)
class Failure:
    """What the journal says of a run that failed."""

    at: datetime
    reason: str


@dataclass(frozen=True)
class Judgement:
    """One aspect: how it is, and what to do where it is not well."""

    what: Aspect
    is_well: bool
    said: str
    hint: str = ""


@dataclass(frozen=True)
class Standing:
    """What a server says of its backups."""

    wanted: Backup
    newest: str = ""
    taken: datetime | None = None
    proven: datetime | None = None
    """When the newest was restored and found right; None: not proven."""
    left_out: int = 0
    """How many things of the newest a restore would be without."""
    drilled: datetime | None = None
    """When any was."""
    remarks: tuple[str, ...] = ()
    """What the newest does not hold, in words."""
    sent: datetime | None = None
    copied: FilesCopy | None = None
    """How the copy of media and configuration went; None: there is none."""
    units: Mapping[str, str] = field(default_factory=dict)
    """"backup.timer", "drill.timer" and each of RUNS -> state."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Of RUNS: its last failure, whatever happened since."""

    @classmethod
    def from_facts(cls, wanted: Backup, facts: Mapping[str, str]) -> Standing | None:
        """None where the server was not asked. A moment that cannot be read counts as none."""
        if "backup_units" not in facts:
            return None
        failures = {run: _failure(facts.get(f"failed_{run}", "")) for run in RUNS}
        return cls(
            wanted,
            newest=facts.get("backup", ""),
            taken=moment(facts.get("backup_taken", "")),
            proven=moment(facts.get("backup_proven", "")),
            left_out=int(facts.get("backup_left_out") or 0),
            drilled=moment(facts.get("backup_drilled", "")),
            remarks=_remarks(facts.get("backup_remarks", "")),
            sent=moment(facts.get("backup_sent", "")),
            copied=FilesCopy.from_json(facts.get("backup_copied", "")),
            units=dict(word.split("=", 1) for word in facts["backup_units"].split() if "=" in word),
            failures={run: failure for run, failure in failures.items() if failure},
        )

    def judged(self, now: datetime) -> tuple[Judgement, ...]:
        """Every aspect there is, well or not; `now` is aware. Without systemd nothing runs by itself."""
        contents = (self._contents(),) if self.remarks else ()
        if not self.units:
            return self._age(now), *contents, self._drill(now)
        return self._age(now), *contents, self._timer(now), self._drill(now), *self._files(now), self._away(now)

    def is_well(self, now: datetime) -> bool:
        """Where nothing is to be sent away, that it is not is no fault; what is in no backup is known, and stays so."""
        return all(one.is_well or self._is_choice(one) or one.what == "backup-contents" for one in self.judged(now))

    def _is_choice(self, one: Judgement) -> bool:
        return one.what == "off-site" and not self.wanted.repository

    def line(self, now: datetime) -> str:
        """All of it that somebody wants to know at a glance."""
        first, *others = self.judged(now)
        rest = [one for one in others if not one.is_well]
        return "; ".join(f"{one.said} ({one.hint})" if one.hint else one.said for one in (first, *rest))

    def _age(self, now: datetime) -> Judgement:
        if not self.taken:
            return Judgement("backup", False, "there is no backup", "fab backup")
        proof = f"proven {age(now - self.proven)} ago" if self.proven else "not proven"
        if self.taken - now > AHEAD:
            said = f"the newest is dated {self.taken:%Y-%m-%d %H:%M:%S %Z}, later than now: a clock was wrong"
            return Judgement("backup", False, said, "look at the server's clock (fab check), then fab backup")
        limits = f", a restore is without {counted(self.left_out)} of it: fab backups" if self.left_out else ""
        said = f"the newest is {age(now - self.taken)} old, {proof}{limits}"
        if now - self.taken > OVERDUE:
            return Judgement("backup", False, f"{said}: overdue", "fab backup; fab logs --service backup")
        return Judgement("backup", True, said)

    def _contents(self) -> Judgement:
        more = f"; and {len(self.remarks) - 2} more" if self.remarks[2:] else ""
        return Judgement("backup-contents", False, f"{'; '.join(self.remarks[:2])}{more}", "fab backups --json")

    def _timer(self, now: datetime) -> Judgement:
        if (failed := self._failed("backup", self.taken, now)) is not None:
            return Judgement("backup-timer", False, f"the timer's last run failed{failed}", "fab logs --service backup")
        if self._state("archive") == "failed":
            said = f"the archive's last run failed{self._failed('archive', None, now) or ''}"
            return Judgement("backup-timer", False, said, "fab logs --service archive")
        if self._state("backup.timer") != "active":
            said = f"no timer takes backups: it is {self._state('backup.timer')}"
            return Judgement("backup-timer", False, said, "fab provision installs it")
        return Judgement("backup-timer", True, "no run has failed since the newest backup")

    def _drill(self, now: datetime) -> Judgement:
        hint = "fab drill; fab logs --service drill"
        by_itself = self.wanted.drill != "never"
        if (failed := self._failed("drill", self.drilled, now)) is not None:
            return Judgement("drill", False, f"the last drill failed{failed}", hint)
        if by_itself and self._state("drill.timer") != "active" and self._state("backup.timer") == "active":
            return Judgement("drill", False, "no timer proves backups", "fab provision installs it")
        if not self.drilled:
            return Judgement("drill", False, "none was ever restored, so none is proven", "fab drill")
        said = f"the last drill was {age(now - self.drilled)} ago"
        if by_itself and now - self.drilled > DRILLS[self.wanted.drill]:
            return Judgement("drill", False, f"{said}: overdue", hint)
        return Judgement("drill", True, said)

    def _files(self, now: datetime) -> tuple[Judgement, ...]:
        """Where a repository is named, whether anything is there at all is said of that."""
        logs = "fab logs --service offsite"
        is_here = not self.wanted.repository
        if is_here and (failed := self._failed("offsite", self.sent, now)) is not None:
            said = f"copying media and configuration failed{failed}"
            return (Judgement("backup-files", False, said, f"fab backup; {logs}"),)
        if not (self.copied and self.sent):
            said = "media and configuration are in no backup yet"
            return (Judgement("backup-files", False, said, "fab provision, then fab backup"),) if is_here else ()
        said = f"{self.copied.contents}, copied {age(now - self.sent)} ago"
        if is_here and self.taken and self.taken - self.sent > BEHIND:
            return (Judgement("backup-files", False, f"{said}: older than the newest backup", f"fab backup; {logs}"),)
        wrong = (*self.copied.problems, *self.copied.remarks)
        if wrong:
            more = f"; and {len(wrong) - 3} more" if wrong[3:] else ""
            return (Judgement("backup-files", False, f"{'; '.join(wrong[:3])}{more}", logs),)
        return (Judgement("backup-files", True, said),)

    def _away(self, now: datetime) -> Judgement:
        hint = "fab backup; fab logs --service offsite"
        if not self.wanted.repository:
            said = "backups are on this server only"
            return Judgement("off-site", False, said, "set [backup] repository, then fab provision")
        if (failed := self._failed("offsite", self.sent, now)) is not None:
            return Judgement("off-site", False, f"sending them away failed{failed}", hint)
        if not self.sent:
            return Judgement("off-site", False, "nothing was sent away yet", hint)
        if self.taken and self.taken - self.sent > BEHIND:
            said = f"the copy away from here is {age(self.taken - self.sent)} older than the newest backup"
            return Judgement("off-site", False, said, hint)
        return Judgement("off-site", True, f"sent away {age(now - self.sent)} ago")

    def apart(self, now: datetime, unit: str) -> Judgement:
        """Of a host that has the database alone: roles and configuration, which it sends away by itself."""
        hint = f"on that host: journalctl -u {unit}; systemctl start {unit}"
        if (failed := self._failed("offsite", self.sent, now)) is not None:
            return Judgement("off-site", False, f"sending roles and configuration away failed{failed}", hint)
        if self._state("offsite.timer") != "active":
            said = f"no timer sends roles and configuration away: it is {self._state('offsite.timer')}"
            return Judgement("off-site", False, said, "fab provision installs it")
        if not self.sent:
            return Judgement("off-site", False, "roles and configuration were not sent away yet", hint)
        said = f"roles and configuration were sent away {age(now - self.sent)} ago"
        is_late = now - self.sent > OVERDUE
        return Judgement("off-site", not is_late, f"{said}: overdue" if is_late else said, hint if is_late else "")

    @property
    def is_new(self) -> bool:
        """The timer that sends is there, and has not run yet."""
        runs = self._state("offsite.timer") == "active" and self._state("offsite") != "failed"
        return runs and not self.sent and not self.failures

    def _state(self, unit: str) -> str:
        return self.units.get(unit, "inactive")

    def _failed(self, run: str, succeeded: datetime | None, now: datetime) -> str | None:
        """What is known of a last run that failed, as ", 3 h ago: the reason"; None when it did not.

        systemd knows of a failure until the server boots; the journal cannot be written while the disk is full.
        """
        last = self.failures.get(run)
        if last and not (succeeded and succeeded >= last.at):
            return f", {age(now - last.at)} ago: {last.reason}"
        return "" if self._state(run) == "failed" else None


def counted(things: int) -> str:
    return "1 thing" if things == 1 else f"{things} things"


def moment(text: str) -> datetime | None:
    """An ISO time; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _remarks(text: str) -> tuple[str, ...]:
    try:
        told = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(str(one) for one in told) if isinstance(told, list) else ()


def _failure(line: str) -> Failure | None:
    """Of a line of the journal: the note is "run: reason"."""
    try:
        told = json.loads(line)
        at = moment(str(told["at"]))
        return Failure(at, str(told["note"]).partition(": ")[2]) if at else None
    except (ValueError, KeyError, TypeError):
        return None
