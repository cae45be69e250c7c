"""The person at the keyboard, or the job in their place: who acts, on which stage and hosts, and what they confirm."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import invoke

from ._timezone import MachineTimezone
from .model.config import Host, Stage
from .model.errors import FailedError, UsageError
from .model.moment import Moment, moment
from .report.safe import clean, prompt

CONFIG = Path("releases.toml")


def load_stage(name: str) -> Stage:
    from .config.load import load, stage

    return stage(load(CONFIG), name)


def chosen(stage: Stage, context: invoke.Context, among: tuple[Host, ...] | None = None) -> tuple[Host, ...]:
    """The hosts -H leaves of those a task is about (`among`; without: those that are deployed to).

    UsageError for one that is not of this stage, or that the task has nothing to do with.
    """
    about = stage.app_hosts if among is None else among
    only: tuple[str, ...] = tuple(context.config.get("only", ()))
    for name in only:
        named = [host for host in stage.hosts if name in (host.name, host.address)]
        if not named:
            names = ", ".join(host.name for host in stage.hosts)
            raise UsageError(
                f"-H {','.join(only)}: {name} is not a host of stage {stage.name}", f"its hosts are {names}"
            )
        if not set(named) & set(about):
            names = ", ".join(host.name for host in about)
            raise UsageError(
                f"-H {name}: no release is ever there ({', '.join(named[0].roles)})", f"this is about {names}"
            )
    return tuple(host for host in about if not only or host.name in only or host.address in only)


def wanted(task: str, date: str, *, undo: bool) -> Moment | None:
    """What --date of `task` means; None: --undo. UsageError unless it is one of them."""
    if undo == bool(date):
        raise UsageError("say either --date or --undo", f"fab {task} --date latest")
    return None if undo else moment(date, now().astimezone(MachineTimezone()))


def who() -> str:
    """Who acts, as journals and locks show it: one line, whatever a CI job calls its people."""
    return clean(_who(), 200)


def _who() -> str:
    if os.environ.get("GITHUB_ACTIONS") == "true":
        return (
            f"{os.environ.get('GITHUB_ACTOR', 'somebody')} (GitHub Actions run {os.environ.get('GITHUB_RUN_ID', '?')})"
        )
    if os.environ.get("GITLAB_CI") == "true":
        return f"{os.environ.get('GITLAB_USER_LOGIN', 'somebody')} (GitLab job {os.environ.get('CI_JOB_ID', '?')})"
    return f"{getpass.getuser()}@{socket.gethostname()}"


def confirm(question: str, *, yes: bool) -> None:
    """UsageError where nobody can answer, FailedError where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(question, "nobody can answer here: say --yes")
    prompt(f"{question}\nType yes to go on:")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise FailedError("not confirmed; nothing was changed")


def strong() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def now() -> datetime:
    return datetime.now(UTC)
