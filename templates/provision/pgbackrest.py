#!/usr/bin/env python3
"""The archive of this server's PostgreSQL, for the account postgres: what it reaches, one backup more, one moment.

`look APPLICATION` answers one JSON object. `backup APPLICATION HH:MM` takes the backup that is due, if one is.
`serve APPLICATION USER MOMENT` runs the cluster as it was at MOMENT (20261120-143500-000000 in UTC, or latest) beside
the live one, behind a socket for USER alone, until it is told to stop. Written by fab-releases.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

STANZA = "main"
PLACE = Path("/var/lib/postgresql/fab-releases")
CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"
SEGMENT = re.compile(r"(?:.*/)?[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}(?:\.\w+)?")
FULL = timedelta(days=6, hours=12)
"""Every backup in between takes less room, and depends on the full one."""
ASKED = ("--output=json", "--io-timeout=2")
"""Somebody waits for the answer: a storage that cannot be reached is tried four times as long (measured, 2.45)."""
OTHER = 99
"""A status that is neither well nor that there is nothing yet: pgBackRest could not look."""
PATIENCE = 60
"""Seconds in which a segment is archived where archiving works at all."""
MARGIN = 256 << 20
"""Bytes of WAL and the like that a cluster needs besides its data."""
LIVE = """
    select json_build_object('last', last_archived_time, 'failed_at', last_failed_time, 'failed_wal', last_failed_wal,
        'waiting', (select count(*) from pg_ls_archive_statusdir() where name like '%.ready'),
        'segment', (select setting::bigint from pg_settings where name = 'wal_segment_size')) from pg_stat_archiver"""
# Recovery ends at a commit later than the moment: without one it would run past the end and fail.
FLUSH = (
    "select to_json(clock_timestamp()) #>> '{}';\nselect txid_current();\nselect pg_walfile_name(pg_switch_wal());\n"
)


class Refused(Exception):
    def __init__(self, error: str, hint: str) -> None:
        super().__init__(error)
        self.error, self.hint = error, hint


@dataclass(frozen=True)
class Reach:
    """What one backup reaches with the segments after it."""

    label: str
    size: int
    """Bytes of the cluster."""
    start: datetime
    end: datetime
    """When the last segment was archived that follows without a gap."""
    last: int
    """The number of that segment."""
    is_open: bool
    """It is the newest one: what is written now will follow."""
    cluster: int = 1
    """Which of those that have archived here, one after the other: a rebuilt server counts its segments anew."""

    def has(self, moment: datetime) -> bool:
        return self.start <= moment and (self.is_open or moment <= self.end)


# --- what there is ---


def look(application: str) -> dict[str, Any]:
    live = asked()
    found = reaches(live)
    side = PLACE / application
    return {
        "spans": [{"start": iso(one.start), "end": iso(one.end), "open": one.is_open} for one in spans(found)],
        "last": live.get("last"),
        "failed_at": live["failed_at"] if fails(live) else None,
        "waiting": live.get("waiting", 0),
        "backups": len(found),
        "leftover": side.exists() and not is_served(application),
    }


def asked() -> dict[str, Any]:
    """What the live cluster says of its archiving; {} while it is down."""
    try:
        answer: dict[str, Any] = json.loads(psql(LIVE))
    except Refused:
        return {}
    return answer


def fails(live: dict[str, Any]) -> bool:
    return bool(live.get("failed_at")) and (not live["last"] or moment(live["failed_at"]) > moment(live["last"]))


def reaches(live: dict[str, Any]) -> list[Reach]:
    """Of each complete backup, oldest first."""
    told = info()
    archives, backups, clusters = (told[0].get(key, []) if told else [] for key in ("archive", "backup", "db"))
    size = live.get("segment") or 16 << 20
    held = {one["database"]["id"]: archived(one["id"], size) for one in archives if backups}
    found = []
    for backup in backups:
        cluster = backup["database"]["id"]
        segments = held.get(cluster, Segments())
        first, last = (ordinal(backup["archive"][end], segments) for end in ("start", "stop"))
        if backup.get("error") or any(number not in segments for number in range(first, last + 1)):
            continue
        while last + 1 in segments:
            last += 1
        stopped = datetime.fromtimestamp(backup["timestamp"]["stop"] + 1, UTC)  # it is told in whole seconds
        end = datetime.fromtimestamp(segments[last], UTC)
        is_open = last == max(segments) and cluster == clusters[-1]["id"]
        found.append(Reach(backup["label"], backup["info"]["size"], stopped, max(stopped, end), last, is_open, cluster))
    return found


def info() -> list[dict[str, Any]]:
    """Of what cannot be reached it tells with exit 0 (pgBackRest's user guide, "status code 99")."""
    told: list[dict[str, Any]] = json.loads(pgbackrest("info", *ASKED))
    for one in told:
        for place in [*one.get("repo", []), one]:
            if place.get("status", {}).get("code") == OTHER:
                raise Refused(reason_in(place["status"]["message"]), "fab provision --check")
    return told


class Segments(dict[int, float]):
    """Number of a segment, whatever its timeline -> when it was archived, as seconds of the epoch."""

    per_file: int = 256


def archived(version: str, size: int) -> Segments:
    """A segment of 16 MB is one of 256 with the same number before them (PostgreSQL 15, 30.5)."""
    found = Segments()
    found.per_file = (1 << 32) // size
    listed = json.loads(pgbackrest("repo-ls", "--recurse", *ASKED, f"archive/{STANZA}/{version}"))
    for name, facts in listed.items():
        if SEGMENT.fullmatch(name):
            found[ordinal(name.rpartition("/")[2], found)] = facts["time"]
    return found


def ordinal(name: str, segments: Segments) -> int:
    return int(name[8:16], 16) * segments.per_file + int(name[16:24], 16)


def spans(found: Sequence[Reach]) -> list[Reach]:
    """Backups that reach the same segment are one span: what separates two is a gap."""
    merged: list[Reach] = []
    for one in found:
        if not merged or (merged[-1].cluster, merged[-1].last) != (one.cluster, one.last):
            merged.append(one)
    return merged


# --- one more ---


def backup(at: str) -> str:
    """Full once a week, and at once after a gap; else incremental, once a day. Refused where archiving fails, so that
    somebody hears of it while nothing is lost yet.
    """
    now = datetime.now().astimezone()
    hour, minute = map(int, at.split(":"))
    due = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    due -= timedelta(days=due > now)
    live = asked()
    if fails(live):
        raise Refused(f"archiving fails, last at {live['failed_at']}", unarchived(live))
    found = reaches(live)
    full = [one for one in found if one.label.endswith("F")]
    if not full or now - full[-1].start > FULL or not found[-1].is_open:
        kind = "full"
    elif found[-1].start < due:
        kind = "incr"
    else:
        return "none is due"
    pgbackrest("backup", f"--type={kind}")
    return f"taken: {kind}"


# --- as it was ---


def serve(application: str, user: str, wanted: str) -> None:
    side, said = PLACE / application, PLACE / f"{application}.json"
    with only_one(application):
        try:
            said.unlink(missing_ok=True)
            remove(side)
            target, reach = chosen(wanted)
            restore(side, target, reach)
            with running(side, application, user) as cluster:
                said.write_text(json.dumps({"taken_at": iso(target), "name": name(target)}))
                notify("READY=1")
                cluster.wait()
        except Refused as error:
            said.write_text(json.dumps({"error": error.error, "hint": error.hint}))
            print(error.error, file=sys.stderr)
            raise SystemExit(1) from None
        finally:
            remove(side)


@contextmanager
def only_one(application: str) -> Iterator[None]:
    with (PLACE / f"{application}.lock").open("w") as lock:
        os.fchmod(lock.fileno(), 0o600)  # whoever may read it may hold it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another moment is being served") from None
        yield


def is_served(application: str) -> bool:
    try:
        with only_one(application):
            return False
    except SystemExit:
        return True


def chosen(wanted: str) -> tuple[datetime, Reach]:
    """The moment, and the newest backup that reaches it. Refused with what is reachable instead."""
    now, flushed = flush()
    target = now if wanted == "latest" else min(now, datetime.strptime(wanted, "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC))
    live = asked()
    found = reaches(live)
    able = [one for one in found if one.has(target)]
    if not flushed and (not live or not live["last"] or target > moment(live["last"])):
        raise Refused(f"what was written until {iso(target)} is not archived", unarchived(live))
    if not able:
        said = ", ".join(f"{iso(one.start)} to {iso(one.end)}" for one in spans(found)) or "nothing yet"
        raise Refused(f"{iso(target)} cannot be reached: the archive has {said}", "fab backups")
    return target, able[-1]


def unarchived(live: dict[str, Any]) -> str:
    if not live:
        return "PostgreSQL does not answer: systemctl status postgresql"
    failed = f", which failed last at {live['failed_at']}" if fails(live) else ""
    return f"{live['waiting']} segments wait for it{failed}: what pgbackrest says is in PostgreSQL's log"


def flush() -> tuple[datetime, bool]:
    """Now, as the live cluster has it, and whether all that was committed until now is archived."""
    try:
        now, _, segment = psql(FLUSH).split("\n")
    except Refused:
        return datetime.now(UTC), False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if psql(f"select coalesce(last_archived_wal >= '{segment}', false) from pg_stat_archiver") == "t":
            return moment(now), True
        time.sleep(0.1)
    return moment(now), False


def restore(side: Path, target: datetime | None, reach: Reach) -> None:
    """Without a target all that was archived is replayed. Tablespaces as well go beside: without a map they would be
    restored over those of the live cluster. Nothing is left out: the backup knows databases by the names they had then,
    and a restore since may have swapped them.
    """
    free = shutil.disk_usage(PLACE).free
    if free < reach.size + MARGIN:
        error = f"{PLACE} has {free:,} bytes free, and the cluster beside needs {reach.size + MARGIN:,}"
        raise Refused(error, "make room, then run it again")
    for folder in (side, side / "data", side / "tablespaces"):
        folder.mkdir(mode=0o700)
    notify(f"STATUS=restoring {reach.label} beside")
    until = ("--type=time", f"--target={target:%Y-%m-%d %H:%M:%S.%f}+00", "--target-action=promote") if target else ()
    pgbackrest(
        "restore",
        *(f"--pg1-path={side}/data", f"--tablespace-map-all={side}/tablespaces", f"--set={reach.label}"),
        *until,
        *("--archive-mode=off", f"--process-max={os.cpu_count() or 1}"),
    )


@contextmanager
def running(side: Path, application: str, user: str) -> Iterator[subprocess.Popen[bytes]]:
    """Reached by USER as the role of the application, by nobody else, and never over a network."""
    folder = os.environ["RUNTIME_DIRECTORY"]
    (side / "hba").write_text(f'local all postgres peer\nlocal "{application}" "{application}" peer map=ours\n')
    (side / "ident").write_text(f'ours "{user}" "{application}"\n')
    (side / "configuration").write_text("")
    programs = Path(f"/usr/lib/postgresql/{(side / 'data/PG_VERSION').read_text().strip()}/bin")
    words = [word for key, value in settings(side, folder, programs).items() for word in ("-c", f"{key}={value}")]
    notify("STATUS=replaying what was written until then")
    with (side / "log").open("wb") as log:
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        started = [programs / "postgres", "-D", side / "data", *words]
        cluster = subprocess.Popen(started, stdout=log, stderr=log, env=environment)
    try:
        while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False).returncode:
            if cluster.poll() is not None:
                raise Refused(*reason((side / "log").read_text(errors="replace")))
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.send_signal(signal.SIGQUIT)  # nothing of it is kept
        cluster.wait()


def settings(side: Path, folder: str, programs: Path) -> dict[str, str]:
    """On the command line they win over what ALTER SYSTEM has said to the live one. Nothing that acts on its own runs
    there: no workers of extensions or subscriptions, which would do the live one's work a second time.
    """
    told = subprocess.run([programs / "pg_controldata", side / "data"], capture_output=True, text=True, check=True)
    limits = dict(re.findall(r"^(max_\w+) setting: +(\d+)$", told.stdout, re.MULTILINE))
    return {
        "config_file": f"{side}/configuration",
        "hba_file": f"{side}/hba",
        "ident_file": f"{side}/ident",
        "external_pid_file": "",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "recovery_min_apply_delay": "0",
        "listen_addresses": "",
        "unix_socket_directories": folder,
        "unix_socket_permissions": "0777",
        "unix_socket_group": "",
        "port": "5432",
        "ssl": "off",
        "archive_mode": "off",
        "hot_standby": "off",
        "shared_preload_libraries": "",
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "max_logical_replication_workers": "0",
        "synchronous_standby_names": "",
        "primary_conninfo": "",
        "autovacuum": "off",
        "fsync": "off",
        "full_page_writes": "off",
        "shared_buffers": "128MB",
        "huge_pages": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "lc_messages": "C",
        "max_prepared_transactions": limits.get("max_prepared_xacts", "0"),
        "max_locks_per_transaction": limits.get("max_locks_per_xact", "64"),
    }


def reason(log: str) -> tuple[str, str]:
    """Why the cluster beside ended."""
    last = re.findall(r"last completed transaction was at log time (.*)", log)
    if "recovery ended before configured recovery target was reached" in log:
        until = f"; it ends at {last[-1]}" if last else ""
        return f"that moment cannot be reached: the archive does not go so far{until}", "fab backups"
    if "Read-only file system" in log:
        error = "between the last backup of the archive and that moment a tablespace was made, which lies where it lay"
        return (
            error,
            "it cannot be replayed beside the live one; moments after the next backup of the archive can be had",
        )
    fatal = re.findall(r"FATAL: +(.*)", log) or log.strip().splitlines()[-1:] or ["it said nothing"]
    return f"the cluster beside does not start: {fatal[-1]}", "nothing was touched"


def remove(side: Path) -> None:
    if side.exists():
        shutil.rmtree(side)


# --- words ---


def name(at: datetime) -> str:
    return f"at-{at:%Y%m%d-%H%M%S}" + (f"-{at:%f}" if at.microsecond else "")


def moment(text: str) -> datetime:
    """As PostgreSQL prints it; its offset may be of two digits."""
    return datetime.fromisoformat(text).astimezone(UTC)


def iso(at: datetime) -> str:
    return at.isoformat()


def psql(query: str) -> str:
    """As postgres, of the live cluster."""
    words = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
    where = {**os.environ, "PGOPTIONS": "-c search_path=pg_catalog"}
    done = subprocess.run(words, input=query, capture_output=True, text=True, env=where, check=False)
    if done.returncode:
        raise Refused(f"PostgreSQL does not answer: {done.stderr.strip()}", "systemctl status postgresql")
    return done.stdout.strip()


def pgbackrest(command: str, *words: str) -> str:
    quiet = ("--log-level-console=off", "--log-level-stderr=warn", "--log-level-file=off")
    called = ["pgbackrest", command, f"--stanza={STANZA}", *quiet, *words]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        said = reason_in(done.stderr.partition("ERROR: ")[2]) or f"exit {done.returncode}"
        raise Refused(f"pgbackrest {command} failed: {said}", "the journal of the server has its lines")
    return done.stdout


def reason_in(said: str) -> str:
    """The first line, and the code of a storage, which comes after the whole request and its headers."""
    code = re.search(r"<Code>(\w+)</Code>", said)
    first = said.strip().partition("\n")[0]
    return f"{first} {code[1]}" if code else first


def notify(state: str) -> None:
    """sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


def stop(*_: object) -> None:
    raise SystemExit(0)


def main(verb: str, application: str, *words: str) -> None:
    signal.signal(signal.SIGTERM, stop)
    try:
        if verb == "serve":
            serve(application, *words)
        elif verb == "backup":
            print(backup(*words))
        else:
            print(json.dumps(look(application)))
    except Refused as error:
        print(json.dumps({"error": error.error, "hint": error.hint}))
        raise SystemExit(1) from None


if __name__ == "__main__":
    os.umask(0o022)
    os.chdir("/")
    main(*sys.argv[1:])
