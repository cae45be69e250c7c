"""What an operator asks for between deploys."""

from __future__ import annotations

from ..model.config import Stage
from ..model.errors import UsageError
from ..model.shell import Script, script
from . import release


def logs(service: str, lines: int, *, follow: bool) -> Script:
    return script(("logs", service, lines, "follow" if follow else ""))


def start() -> Script:
    """What is live and does not run; fails with the last lines of what will not."""
    return script(("start_all",))


def freeze(message: str) -> Script:
    return script(("freeze", message))


def unfreeze() -> Script:
    return script(("unfreeze",))


def maintenance(state: str, message: str) -> Script:
    """The message becomes text of a small page, never markup."""
    if state not in ("on", "off"):
        raise UsageError(f"maintenance {state}: it is on or off", "fab maintenance on")
    text = message.replace("&", "&amp;").replace("<", "&lt;")
    return script(
        ("maintenance", state, f"<!doctype html><meta charset=utf-8><title>Maintenance</title><p>{text}</p>\n")
    )


def pin(id: str, *, on: bool) -> Script:
    return script(("pin", id, "on" if on else "off"))


def cleanup(stage: Stage) -> Script:
    return script(("prepare_folders",)) + release.prune(stage) + script(("collect_garbage",))
