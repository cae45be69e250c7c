"""Questions about what should keep the data safe: how old it is, whether it was proven, and whether anybody noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from ...model.archive import Archive
from ...model.backup import Backup
from ...model.config import Host, Stage
from ...model.finding import Finding, look, ok
from ...model.standing import RUNS, Standing
from .question import Answer, Question


def questions(stage: Stage, host: Host, now: datetime) -> Iterator[Question]:
    if stage.manager == "systemd" and stage.backup.enabled and host == stage.primary:
        yield Question("backup", ("ask_backups",), lambda answer: read(answer, stage.backup, now))
        if stage.is_archived:
            yield Question("archive", ("ask_archive",), lambda answer: read_archive(answer, now), seconds=12)


def apart(stage: Stage, host: Host, now: datetime) -> Iterator[Question]:
    """Of the database's own host."""
    if stage.manager == "systemd" and stage.sends_apart(host):
        yield Question("off-site", ("ask_apart",), lambda answer: read_apart(answer, stage, now))


def repository(stage: Stage, host: Host, proof: tuple[str, str], kept: str) -> Iterator[Question]:
    """Whether the key kept at `kept` here is the server's, and opens what it should; `proof` as of `challenge`."""
    if stage.manager == "systemd" and stage.backup.enabled and host == stage.primary:
        asked = json.dumps({"nonce": proof[0], "proof": proof[1] if stage.backup.repository else ""})
        yield Question(
            "repository",
            ("ask_repository", asked),
            lambda answer: read_repository(answer, stage, host, kept),
            seconds=13,
        )


def read_repository(answer: Answer, stage: Stage, host: Host, kept: str) -> Iterator[Finding]:
    """One finding of the repository, one of the key that is kept away from the server where there should be one."""
    told = answer.json()
    key, trouble, place = told["key"], told["trouble"], told["place"]
    on_server = f"/etc/fab-releases/{stage.known_as}.key"
    if stage.backup.repository and key == "missing":
        yield look("repository-key", f"{host.name} has no {on_server}", "fab provision puts it there")
    elif key == "unasked" and stage.backup.repository:
        hint = f"copy it here from where you keep it, or from {on_server} on {host.name}, now that it is there"
        yield look("repository-key", f"{kept} is not here: without it nothing that was sent can be read", hint)
    elif key == "other":
        hint = f"find the right one: {on_server} on {host.name}; keep a copy of it where no server is"
        yield look("repository-key", f"{kept} is another key than {host.name} uses", hint)
    elif key == "same":
        yield ok("repository-key", f"{kept} is the key that {host.name} uses")
    if trouble and key != "missing":
        hint = "fab backup begins it, or says more; fab logs --service offsite"
        yield look("repository", f"{place} cannot be opened by {host.name}: {trouble}", hint)
    elif key != "missing":
        yield ok("repository", f"{host.name} opens {place}")
    elif not stage.backup.repository:
        yield look("repository", f"{host.name} has copied no files to {place} yet", "fab backup")


def read_apart(answer: Answer, stage: Stage, now: datetime) -> Iterator[Finding]:
    standing = _standing(answer, stage.backup)
    if standing:
        one = standing.apart(now, f"{stage.known_as}-offsite")
        yield ok(one.what, one.said) if one.is_well else look(one.what, one.said, one.hint)


def read(answer: Answer, wanted: Backup, now: datetime) -> Iterator[Finding]:
    """One finding per aspect: backup, backup-timer, drill, off-site."""
    standing = _standing(answer, wanted)
    for one in standing.judged(now) if standing else ():
        yield ok(one.what, one.said) if one.is_well else look(one.what, one.said, one.hint)


def read_archive(answer: Answer, now: datetime) -> Iterator[Finding]:
    found = Archive.from_json(answer.last_line)
    troubles = list(found.attention(now))
    if not troubles and not found.spans:
        troubles.append((found.reach(now), "it is taken by itself; fab logs --service archive"))
    for said, hint in troubles:
        yield look("archive", said, hint)
    if not troubles:
        yield ok("archive", f"one can go back to {found.reach(now)}")


def _standing(answer: Answer, wanted: Backup) -> Standing | None:
    said = {name: value for name, _, value in (line.partition(" ") for line in answer.text.splitlines())}
    return Standing.from_facts(wanted, said)


def units(stage: Stage) -> tuple[str, ...]:
    """Whose failure is told here, with its reason."""
    return tuple(f"{stage.known_as}-{run}.service" for run in RUNS)
