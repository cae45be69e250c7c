"""Copies what a new server would need, encrypted: to the repository, or on this server until one is named."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from .. import files
from ..owners import group_of
from ..refused import Refused
from . import record, restic, view
from .gather import gather
from .trees import Names, Tree, scan

LOCAL = "/var/backups/fab-releases"
EXCLUDED = 1000
"""So many names fit on a command line; more are copied as what they are, and a restore leaves them out."""
TRIES, PAUSE = 60, 60


@dataclass(frozen=True)
class Settings:
    """What provisioning wrote down beside this program."""

    application: str
    repository: str
    """"" for one on this server."""
    user: str
    shared: str
    shared_dirs: tuple[str, ...]
    current: str
    """"" where no release is: only roles and configuration are copied."""
    dumps: str
    journal: str
    keep: dict[str, int]
    reserve: int
    """Bytes that must stay free on this server."""

    @property
    def host(self) -> str:
        """As restic calls whose snapshot it is."""
        return self.application if self.current else f"{self.application}-database"

    @property
    def target(self) -> restic.Repository:
        here = not self.repository
        return restic.Repository(self.application, self.repository or f"{LOCAL}/{self.application}", here)

    @property
    def facts(self) -> str:
        return f"{restic.STATE}/offsite/{self.application}"

    @property
    def outcome(self) -> str:
        return f"{restic.STATE}/{self.application}-offsite.json"

    @property
    def history(self) -> str:
        return f"{restic.STATE}/{self.application}-offsite.history"


def main(words: list[str]) -> int:
    """`words` are the path of the settings. What is said last says why it failed."""
    settings = read_settings(words[0])
    os.umask(0o077)
    try:
        problems = copy_all(settings, datetime.now(timezone.utc))
    except Refused as no:
        problems = [no.message, *([no.hint] if no.hint else [])]
    except OSError as error:
        problems = [f"{error.filename or settings.target.place}: {error.strerror}"]
    for line in problems:
        print(line, file=sys.stderr)
    if problems:
        print(json.dumps({"error": "; ".join(problems)}), flush=True)
    return 1 if problems else 0


def read_settings(path: str) -> Settings:
    told = json.loads(files.read(path))
    return Settings(**{**told, "shared_dirs": tuple(told["shared_dirs"])})


def copy_all(settings: Settings, now: datetime) -> list[str]:
    """What went wrong, as sentences; what is only remarkable is in the outcome."""
    files.make_folders(restic.STATE, "root", "root", 0o755)
    files.make_folders(restic.CACHE, "root", "root", 0o700)
    target = settings.target
    target.open()
    lost, notes = take_history_along(settings, target)
    missing = gather(settings.facts, settings.current, settings.user)
    sources = [path for path in wanted(settings) if os.path.lexists(path)]
    view.enter(sources, [target.place] if target.place.startswith("/") else [])
    found, troubles = scanned(settings)
    if target.is_here:
        room(settings, target, sum(one.size for one in found.values()))
    written = send(settings, target, sources, found)
    counts = counted(settings, target, written.snapshot, found)
    before = record.history(settings.history)
    problems, remarks = record.judged(before, counts, now)
    problems += unread(written, found) + missing + short(found, counts)
    remarks += troubles + left_out(found) + lost
    told = {"place": target.place, "here": target.is_here, "snapshot": written.snapshot, "folders": counts}
    group = group_of(settings.user if settings.current else "root")
    record.write(settings.outcome, group, {**told, "problems": problems, "remarks": remarks, "notes": notes}, now)
    record.remember(settings.history, counts, before, now)
    for line in remarks:
        print(f"warning: {line}", file=sys.stderr)
    if not problems:  # what may be all that is left of lost files is not forgotten
        if settings.current:
            target.forget((settings.application, f"{settings.application}-database"), settings.keep, now)
            target.check(now)
        stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}\n".encode()
        files.replace(f"{restic.STATE}/{settings.application}-offsite-at", stamp, "root", "root", 0o644)
    return problems


def wanted(settings: Settings) -> list[str]:
    """Not everything is everywhere: who fetches from git and logs in, what runs at its hours, tasks that wait."""
    if not settings.current:
        return [settings.facts, "/etc"]
    home = pwd.getpwnam(settings.user).pw_dir
    more = [f"{home}/.ssh", "/root/.ssh/authorized_keys", "/var/spool/cron/crontabs", "/var/lib/redis"]
    # Dumps are on this server anyway: twice of each would only fill it.
    dumps = [] if settings.target.is_here else [settings.dumps]
    return [settings.facts, "/etc", settings.shared, *dumps, settings.journal, *more]


def scanned(settings: Settings) -> tuple[dict[str, Tree], list[str]]:
    """(folder of shared_dirs -> what is in it, which are in no backup and why)."""
    found, troubles = {}, []
    for folder in settings.shared_dirs if settings.current else ():
        path = f"{settings.shared}/{folder}"
        try:
            if not files.entry(path):
                troubles.append(f"{folder} is not in this backup: {path} is not there")
            found[folder] = scan(path)
        except Refused as no:
            troubles.append(f"the files of {folder} are not in this backup: {no.message}")
            found[folder] = Tree()
    return found, troubles


def room(settings: Settings, target: restic.Repository, size: int) -> None:
    """A copy on the server itself must not be what fills its disk."""
    there = target.snapshots(settings.host)
    tops = [f"{settings.shared}/{folder}" for folder in settings.shared_dirs]
    had = sum(one[1] for one in target.counts(there[-1]["short_id"], tops).values()) if there else 0
    free = shutil.disk_usage(target.place).free
    needed = max(0, size - had)
    if needed + settings.reserve > free:
        said = f"{needed >> 20:,} MB of new files do not fit into {target.place}: {free >> 20:,} MB are free"
        said += f", and {settings.reserve >> 20:,} MB must stay so"
        raise Refused(f"media and configuration were not copied: {said}", "set [backup] repository, then fab provision")


def send(settings: Settings, target: restic.Repository, sources: list[str], found: dict[str, Tree]) -> restic.Written:
    """Refused where nothing was written at all."""
    odd = [restic.pattern(path) for tree in found.values() for path, _ in tree.odd]
    left = [f"{settings.shared}/.fab-restore", f"{settings.dumps}/**/*.part", *odd[:EXCLUDED]]
    for again in range(1 if settings.current else TRIES):
        if again:  # the other host has it locked while it forgets and checks
            time.sleep(PAUSE)
            target.run("unlock")
        written = restic.write(target, settings.host, sources, left)
        if written.snapshot:
            return written
    raise Refused(f"nothing was written to {target.place}: {restic.reason(chr(10).join(written.said))}")


def counted(settings: Settings, target: restic.Repository, snapshot: str, found: dict[str, Tree]) -> record.Counts:
    tops = {f"{settings.shared}/{folder}": folder for folder in found}
    return {tops[top]: counts for top, counts in target.counts(snapshot, tops).items()}


def unread(written: restic.Written, found: dict[str, Tree]) -> list[str]:
    said = Names()
    for names in (written.unread, *(tree.unread for tree in found.values())):
        said.count = max(said.count, names.count)
        said.first = said.first or names.first
    if said.count:
        return [f"{said.count:,} files or folders could not be read, and are in no backup: {said}"]
    return [] if written.status == 0 else ["restic says that something could not be read: its lines are above"]


def short(found: dict[str, Tree], counts: record.Counts) -> list[str]:
    """Files come and go while they are copied: one in a hundred may."""
    gone = [(folder, tree.files - counts[folder][0], tree.files) for folder, tree in found.items()]
    return [
        f"{folder} has {count:,} files, and {missing:,} of them are not in the snapshot"
        for folder, missing, count in gone
        if missing > max(count // 100, 0 if count < record.MANY else record.MANY)
    ]


def left_out(found: dict[str, Tree]) -> list[str]:
    said = []
    for folder, tree in found.items():
        for path, why in tree.odd[:3]:
            said.append(f"left out: {path!r} {why}")
        if len(tree.odd) > 3:
            said.append(f"left out of {folder}: {len(tree.odd) - 3:,} more")
    return said


def take_history_along(settings: Settings, target: restic.Repository) -> tuple[list[str], list[str]]:
    """What was kept on this server before a repository was named goes there, once. (What is wrong, what to know.)"""
    old = restic.Repository(settings.application, f"{LOCAL}/{settings.application}", is_here=True)
    mark = f"{restic.STATE}/{settings.application}-offsite-copied"
    if target.is_here or not files.entry(f"{old.place}/config") or not settings.current:
        return [], []
    if not files.entry(mark):
        why = restic.copy(old, target)
        if why:
            said = f"what was kept before a repository was named is in {old.place} only: copying it failed: {why}"
            return [said], []
        files.replace(mark, f"{target.place}\n".encode(), "root", "root", 0o600)
    return [], [f"what was kept on this server alone is in the repository as well: rm -r {old.place} frees its room"]
