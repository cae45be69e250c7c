"""What opens the repository away from the servers: a key file on this machine, which no lost server takes with it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .model.config import Stage
from .model.errors import UsageError
from .model.shell import Secret
from .remote.machine.stores import Offsite


def key_file(stage: Stage) -> Path:
    return Path(stage.backup.key or f"~/.config/fab-releases/{stage.known_as}.key").expanduser()


def lacks_key(stage: Stage) -> bool:
    return bool(stage.backup.repository) and not key_file(stage).exists()


def made_key(stage: Stage) -> Path:
    """Where a key was made just now."""
    path = key_file(stage)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return path


def opened(stage: Stage) -> Offsite:
    """Empty without a repository, or where no key is there yet. UsageError for a variable that is not set."""
    if not stage.backup.repository or not key_file(stage).exists():
        return Offsite()
    missing = [name for name in stage.backup.variables if name not in os.environ]
    if missing:
        raise UsageError(f"[backup] variables: {', '.join(missing)} not set here", "export them, then run it again")
    lines = "".join(f"{name}={os.environ[name]}\n" for name in stage.backup.variables)
    return Offsite(Secret(key_file(stage).read_text()), Secret(lines))
