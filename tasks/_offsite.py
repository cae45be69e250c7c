"""What opens the repository away from the servers: a key file on this machine, which no lost server takes with it."""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from .model.config import Stage
from .model.errors import UsageError
from .model.finding import Finding, look, ok, skipped
from .model.shell import Secret
from .remote.machine.stores import Offsite

PATIENCE = 12
"""Seconds for the repository to answer this machine."""


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


def challenge(stage: Stage) -> tuple[str, str]:
    """A word of this moment, and what only who has the key can make of it; "" where no key can be read here."""
    nonce = secrets.token_hex(32)
    try:
        key = key_file(stage).read_bytes()
    except OSError:
        return nonce, ""
    return nonce, hmac.digest(key.strip(), nonce.encode(), "sha256").hex()


def tried_from_here(stage: Stage) -> tuple[Finding, ...]:
    """Whether the key of this machine opens the repository from this machine, as a rebuilt server would need."""
    repository, key = stage.backup.repository, key_file(stage)
    if not repository or not stage.backup.enabled:
        return ()
    what = "repository-from-here"
    if not key.exists():
        return (skipped(what, "the key is not here"),)
    if "sftp:" not in repository and "s3:" not in repository:
        return (skipped(what, f"not tried from here: {repository} is a folder of the server"),)
    if not shutil.which("restic"):
        return (skipped(what, "not tried from here: restic is not installed on this machine"),)
    missing = [name for name in stage.backup.variables if name not in os.environ]
    if missing:
        return (skipped(what, f"not tried from here: {', '.join(missing)} not set here"),)
    told = {"RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD_FILE": str(key)}
    command = ["restic", "--quiet", "--no-lock", "--no-cache", "cat", "config"]
    try:
        done = subprocess.run(
            command, env=os.environ | told, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=PATIENCE, check=False, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"no answer within {PATIENCE} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
    else:
        if not done.returncode:
            return (ok(what, f"the key here opens {repository}"),)
        why = (done.stderr.strip() or "no reason given").splitlines()[-1]
    return (look(what, f"{repository} cannot be opened from here: {why}", "may this machine reach it, and log in?"),)
