"""A restic repository: opened or begun, written to, forgotten from, checked."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from .. import files
from ..refused import Refused
from .trees import Names

TAG = "fab-releases"
CACHE = "/var/cache/fab-releases/restic"
STATE = "/var/lib/fab-releases"
OPEN_SECONDS = 60
SPARED = timedelta(days=2)
"""Nothing younger is ever forgotten, whatever the policy says."""


@dataclass(frozen=True)
class Repository:
    application: str
    place: str
    """As restic says it, or a folder of this server."""
    is_here: bool = False
    """On the server itself, with a key that the server made."""

    @property
    def key(self) -> str:
        return f"/etc/fab-releases/{self.application}{'.local' if self.is_here else ''}.key"

    @property
    def begun(self) -> str:
        """The file that says which repository was begun."""
        return f"{STATE}/{self.application}-offsite-in{'.local' if self.is_here else ''}"

    def run(self, *words: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        """Its output is text; TimeoutExpired after `seconds`."""
        return subprocess.run(
            ["restic", "--quiet", *words],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=seconds,
            check=False,
        )

    def must(self, *words: str) -> str:
        done = self.run(*words)
        if done.returncode:
            raise Refused(f"{words[0]} of {self.place} failed: {reason(done.stderr)}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        told = {"PATH": os.environ.get("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"), "HOME": "/root"}
        if not self.is_here:
            told.update(variables(f"/etc/fab-releases/{self.application}.env"))
        told.setdefault("RESTIC_REPOSITORY", self.place)  # a variable may say it with what opens it
        told.update(RESTIC_PASSWORD_FILE=self.key, RESTIC_CACHE_DIR=CACHE, TMPDIR=CACHE)
        return told

    def trouble(self) -> str:
        """Why it cannot be opened; "" when it can. Where packets are dropped, restic itself tries for minutes."""
        try:
            done = self.run("--no-lock", "cat", "config", seconds=OPEN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Refused(
                f"{self.place} did not answer in {OPEN_SECONDS} s: is it there, and may this server reach it?"
            ) from None
        return reason(done.stderr) if done.returncode else ""

    def open(self) -> None:
        """Begun once. Where it is gone later, another one would lie on the bare folder of a mount, and look well."""
        if self.is_here:
            _make_place(self)
        trouble = self.trouble()
        if _said(self.begun) == self.place:
            if trouble:
                raise Refused(
                    f"{self.place} held what was sent away before, and cannot be opened now: {trouble}",
                    f"is it mounted, and reached? to begin another one there: rm {self.begun}",
                )
        else:
            if trouble:
                self.must("init")
            files.replace(self.begun, f"{self.place}\n".encode(), "root", "root", 0o600)
        self.run("unlock")  # of a run that was killed: only what no living process holds

    def snapshots(self, *hosts: str) -> list[dict[str, Any]]:
        """Of these hosts, oldest first."""
        words = [word for host in hosts for word in ("--host", host)]
        told = json.loads(self.must("--no-lock", "snapshots", "--json", "--tag", TAG, *words) or "[]") or []
        return sorted(told, key=lambda one: moment(one["time"]))

    def counts(self, snapshot: str, folders: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Folder -> (files, bytes) that the snapshot has below it."""
        tops = list(folders)
        found = dict.fromkeys(tops, (0, 0))
        if not tops:
            return found
        command = ["restic", "--quiet", "--no-lock", "ls", "--json", "--recursive", snapshot, *tops]
        with subprocess.Popen(command, env=self.environment(), stdout=subprocess.PIPE) as process:
            assert process.stdout
            for node in parsed(process.stdout):
                top = next((one for one in tops if str(node.get("path", "")).startswith(one + "/")), "")
                if top and node.get("type") == "file":
                    files_, size = found[top]
                    found[top] = (files_ + 1, size + int(node.get("size") or 0))
        if process.returncode:
            raise Refused(f"the snapshot {snapshot} of {self.place} could not be listed")
        return found

    def forget(self, hosts: Iterable[str], keep: dict[str, int], now: datetime) -> None:
        """What the policy does not keep goes, unless it is younger than SPARED by our clock or beside the newest."""
        words = [word for name, count in keep.items() for word in (f"--keep-{name}", str(count))]
        words += [word for host in hosts for word in ("--host", host)]
        said = self.must("forget", "--dry-run", "--json", "--tag", TAG, "--group-by", "host", *words)
        going: list[str] = []
        for group in json.loads(said or "[]") or []:
            old = group.get("remove") or []
            there = sorted([*(group.get("keep") or []), *old], key=lambda one: moment(one["time"]))
            going += [str(one["short_id"]) for one in old if not is_spared(one, there, now)]
        if going:
            self.must("forget", "--prune", *going)

    def check(self, now: datetime) -> None:
        """A seventh of the data is read each day: all of it in a week, at a seventh of the cost."""
        self.must("check", "--read-data-subset", f"{now.isoweekday()}/7")


@dataclass
class Written:
    """How a backup went."""

    snapshot: str = ""
    unread: Names = field(default_factory=Names)
    """What was there and could not be read."""
    said: list[str] = field(default_factory=list)
    status: int = 0


def write(repository: Repository, host: str, sources: Iterable[str], left_out: Iterable[str]) -> Written:
    """Nothing that is in a file decides what is copied: not CACHEDIR.TAG, nor any other name."""
    words = [word for path in left_out for word in ("--exclude", path)]
    command = ["restic", "--quiet", "--json", "backup", "--host", host, "--tag", TAG, *words, "--", *sources]
    written = Written()
    with subprocess.Popen(
        command,
        env=repository.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            _read(line, written)
    written.status = process.returncode
    return written


def _read(line: bytes, written: Written) -> None:
    node = next(parsed([line]), {})
    kind = node.get("message_type")
    if kind == "summary":
        written.snapshot = str(node.get("snapshot_id", ""))
    elif kind == "error":
        item = str(node.get("item", ""))
        if not item or os.path.lexists(item):  # one that was removed meanwhile is no loss
            written.unread.add(item or reason(str(node.get("error", ""))))
    elif line.strip():
        written.said = [*written.said[-14:], line.decode(errors="replace").rstrip()]


def copy(source: Repository, target: Repository) -> str:
    """The history goes along; why not, or "" when it did."""
    words = ("copy", "--from-repo", source.place, "--from-password-file", source.key, "--tag", TAG)
    done = target.run(*words)
    return reason(done.stderr) if done.returncode else ""


def is_spared(one: dict[str, Any], there: list[dict[str, Any]], now: datetime) -> bool:
    """`there` are oldest first: the one before the newest counts as well, for the newest may be of a wrong clock."""
    taken = moment(one["time"])
    marks = [now, *(moment(other["time"]) for other in there[-2:])]
    return any(mark - taken < SPARED for mark in marks)


def moment(text: str) -> datetime:
    """restic says nanoseconds."""
    found = datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def pattern(path: str) -> str:
    """What leaves out this very path (restic's patterns are those of Go's filepath.Match)."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Those that are JSON objects."""
    for line in lines:
        try:
            node = json.loads(line)
        except ValueError:
            continue
        if isinstance(node, dict):
            yield node


def reason(text: str) -> str:
    """The line of what restic says that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "atal" in line or "rror" in line), lines[-1] if lines else "no reason given")


def variables(path: str) -> dict[str, str]:
    try:
        lines = files.read(path).decode().splitlines()
    except FileNotFoundError:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name}


def _said(path: str) -> str:
    try:
        return files.read(path).decode().strip()
    except FileNotFoundError:
        return ""


def _make_place(repository: Repository) -> None:
    if not shutil.which("restic"):
        raise Refused("restic is not installed", "fab provision installs it")
    there = files.entry(repository.key)
    if not there and files.entry(f"{repository.place}/config"):
        raise Refused(f"{repository.key} is gone, and nothing else opens {repository.place}", "look for a copy of it")
    files.make_folders(repository.place, "root", "root", 0o700)
    if not there:
        files.make_folders(os.path.dirname(repository.key), "root", "root", 0o755)
        files.replace(repository.key, f"{secrets.token_urlsafe(32)}\n".encode(), "root", "root", 0o600)
