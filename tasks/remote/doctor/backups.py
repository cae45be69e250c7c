"""Questions about what should keep the data safe: how old it is, whether it was proven, and whether anybody noticed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ...model.backup import Backup
from ...model.config import Host, Stage
from ...model.finding import Finding, look, ok
from ...model.standing import RUNS, Standing
from .question import Answer, Question


def questions(stage: Stage, host: Host, now: datetime) -> Iterator[Question]:
    if stage.manager == "systemd" and stage.backup.enabled and host == stage.primary:
        yield Question("backup", ("ask_backups",), lambda answer: read(answer, stage.backup, now))


def read(answer: Answer, wanted: Backup, now: datetime) -> Iterator[Finding]:
    """One finding per aspect: backup, backup-timer, drill, off-site."""
    said = {name: value for name, _, value in (line.partition(" ") for line in answer.text.splitlines())}
    standing = Standing.from_facts(wanted, said)
    for one in standing.judged(now) if standing else ():
        yield ok(one.what, one.said) if one.is_well else look(one.what, one.said, one.hint)


def units(stage: Stage) -> tuple[str, ...]:
    """Whose failure is told here, with its reason."""
    return tuple(f"{stage.application}-{run}.service" for run in RUNS)
