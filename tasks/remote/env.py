"""What is said about the file of the application's variables. Its content travels as one secret word."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from ..model.config import Stage
from ..model.shell import Script, Secret, script

KEEP = 10


def read(stage: Stage) -> Script:
    """Tells `content` with the file in base64, or `absent`: marks, which no report shows."""
    return script(("read_variables", stage.environment.file))


def read_version(stage: Stage, version: str) -> Script:
    return script(("read_variables_version", stage.environment.file, version))


def versions(stage: Stage) -> Script:
    return script(("variables_versions", stage.environment.file))


def write(stage: Stage, content: bytes, version: str) -> Script:
    """Replaces the file; what was there is kept as `version`."""
    told = Secret(base64.b64encode(content).decode())
    return script(("write_variables", stage.environment.file, version, reader(stage), told))


def put_back(stage: Stage, version: str, *, absent: bool) -> Script:
    was = "absent" if absent else "there"
    return script(("put_back_variables", stage.environment.file, version, reader(stage), was))


def forget(stage: Stage) -> Script:
    return script(("forget_variables", stage.environment.file, KEEP))


def reader(stage: Stage) -> str:
    """The account whose processes read the file; "": whoever deploys (supervisord)."""
    return stage.app_user if stage.manager == "systemd" else ""


def content(words: tuple[str, ...]) -> bytes:
    return base64.b64decode(words[0] if words else "")


def version(now: datetime) -> str:
    """Microseconds, so that two changes of one second are two versions."""
    return now.astimezone(UTC).strftime("%Y%m%d-%H%M%S-%f")
