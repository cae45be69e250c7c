"""What no file says: which release was live and with what, which packages somebody asked for, roles and grants."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from .. import accounts, files, postgres
from ..refused import Refused
from ..values import cluster

RELEASES = {"release.json": "release.json", ".release/freeze.txt": "requirements"}
LIMIT = 4 << 20
CLUSTERS = "/var/lib/postgresql"
WHICH = "select system_identifier from pg_control_system()"


def gather(folder: str, current: str, user: str) -> list[str]:
    """Into `folder`, which is root's; what could not be had, as sentences."""
    files.make_folders(folder, "root", "root", 0o700)
    missing: list[str] = []
    for inner, name in RELEASES.items() if current else ():
        _keep(folder, name, _as(user, f"{current}/{inner}"))
    _keep(folder, "packages", _output(["apt-mark", "showmanual"]))
    if shutil.which("ufw"):
        _keep(folder, "firewall", re.sub(rb"(?m)^ufw ", b"", _rules(_output(["ufw", "show", "added"]) or b"")))
    if accounts.exists("postgres"):
        missing += _of_postgres(folder)
    return missing


def _of_postgres(folder: str) -> list[str]:
    """The roles of an earlier run stay where they cannot be read now."""
    missing = []
    try:
        # As values: statements of a dump would be said again by a superuser, with names that others have chosen.
        _keep(folder, "postgresql.json", postgres.superuser(cluster.QUERY).encode())
        # Which cluster it is: an archive may hold several, one after the other.
        _keep(folder, "cluster", postgres.superuser(WHICH).encode())
    except Refused as no:
        missing.append(f"roles and grants could not be read, those of an earlier run were sent, if any: {no.message}")
    _keep(folder, "postgresql.auto.conf", accounts.run_as("postgres", _settings))
    return missing


def _settings() -> bytes:
    found = []
    for version in sorted(os.listdir(CLUSTERS)) if os.path.isdir(CLUSTERS) else ():
        try:
            found.append(files.read(f"{CLUSTERS}/{version}/main/postgresql.auto.conf", LIMIT))
        except (OSError, Refused):
            continue
    return b"".join(found)


def _as(user: str, path: str) -> bytes | None:
    """By its owner: a link, a FIFO or a device there is that account's own affair, and no more than LIMIT is read."""

    def read() -> bytes | None:
        try:
            return files.read(path, LIMIT)
        except (OSError, Refused):
            return None

    content: bytes | None = accounts.run_as(user, read)
    return content


def _keep(folder: str, name: str, content: bytes | None) -> None:
    if content is None:
        files.remove(f"{folder}/{name}")
    else:
        files.replace(f"{folder}/{name}", content, "root", "root", 0o600)


def _rules(said: bytes) -> bytes:
    return b"".join(line + b"\n" for line in said.splitlines() if line.startswith(b"ufw "))


def _output(command: list[str]) -> bytes | None:
    """None when it fails; what it says goes to the journal of the unit."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/")
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
