"""`fab recover`: a lost server rebuilt from what was sent away from it, by one command and one key."""

from __future__ import annotations

import time
from dataclasses import replace

import invoke

from . import deploy as deploying
from . import provision as provisioning
from ._offsite import key_file, opened
from ._operator import confirm, load_stage
from ._scene import Scene, must, scene, talk
from ._task import task
from .engine.execute import Ending, ask, execute
from .model.config import Stage
from .model.errors import FailedError, PreflightError, UsageError
from .model.event import Note
from .model.plan import Plan
from .model.release import Release
from .plans import recover as recovering
from .remote.machine import stores

HOURS = 6 * 3600
"""Seconds fetching and restoring may take."""


@task(help={"snapshot": "restic's name of an older state (default: the newest)"})
def recover(
    context: invoke.Context,
    stage: str = "",
    snapshot: str = "latest",
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Rebuild a lost server from its backups: provisioned, files, database, and the release that was live."""
    here = load_stage(stage)
    _possible(here)
    started = time.monotonic()
    with talk(json=json) as tell, scene(context, here, tell, as_admin=True, among=here.hosts) as at:
        facts = provisioning.identified(at)
        at.lock("recover", wait)
        primary = here.primary.name
        bare = ask(at.sessions[primary], recovering.is_bare())
        if not bare.ok:
            raise PreflightError(*bare.error)
        confirm(f"Rebuild {here.application} on {', '.join(at.sessions)} from {here.backup.repository}?", yes=yes)
        fetched = _carried_out(at, recovering.fetching(here, opened(here), snapshot))
        tell(
            Note(f"the state of {fetched.get('snapshot', '?')[:19]}; what was written later is not in it", warning=True)
        )
        code = provisioning.set_up(at, facts, _seeds(at))
        if code:
            return code
        filled = _carried_out(at, recovering.filling(here))
        tell(Note(f"{filled['files']} files are back, the database is {filled.get('database', 'not ours')}"))
    release = Release.from_json(fetched["release"])
    code = deploying.deploy.body(context, stage=here.name, ref=release.sha, json=json)
    with talk(json=json) as tell:
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        tell(Note(f"{release.sha[:7]} was live and is again" if not code else "everything but the release is back"))
        tell(Note(f"it took {minutes} min {seconds:02d} s (RTO)"))
        tell(Note(f"yours to do: point {here.domain or 'the DNS name'} at the new address, if it has changed"))
    return int(code or 0)


def _possible(stage: Stage) -> None:
    if not stage.backup.repository:
        raise UsageError(
            "[backup] repository is not set: nothing was sent away", "docs/how-to/rebuild-a-lost-server.md"
        )
    if stage.has_postgresql and stage.database_host != stage.primary:
        raise UsageError(
            f"the database is on {stage.database_host.name}, apart from the releases: recover does not do that yet",
            "docs/how-to/rebuild-a-lost-server.md says how by hand",
        )
    if not key_file(stage).exists():
        raise UsageError(
            f"{key_file(stage)} is not here, and without it what was sent away cannot be read",
            "copy it here from where you keep it",
        )


def _carried_out(at: Scene, plan: Plan) -> dict[str, str]:
    """What the plan found out on the primary host. FailedError."""
    ending: Ending = execute(plan, at.sessions, at.tell, HOURS)
    if ending.code:
        raise FailedError(ending.message, ending.hint)
    return ending.facts[at.stage.primary.name]


def _seeds(at: Scene) -> stores.Seeds:
    """As the lost server had them: its environment file goes where it was, and its passwords are made known again."""
    said = must(ask(at.sessions[at.stage.primary.name], recovering.read_environment(at.stage)), at.stage.primary.name)
    known = stores.told((mark.kind, *mark.words) for mark in said.marks)
    return replace(stores.seeds_of(known.get("environment")), offsite=opened(at.stage))


TASKS = ("recover",)
