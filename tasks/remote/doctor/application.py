"""Questions about the application: its files, services, database and Redis, its certificate, backups and repository."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ...model.config import Host, Stage
from ...model.finding import Finding, bad, look, ok, skipped
from .. import services
from ..library import templates
from . import backups
from .question import Answer, Question

WELL = ("active", "running", "listening")
MANY_TASKS = 1000
"""Waiting in one queue: more than workers that keep up leave there."""
SOON, NOW = timedelta(days=21), timedelta(days=3)
"""Before a certificate ends. certbot renews 30 days before: at 21 it has failed for a week."""


def questions(stage: Stage, host: Host, ref: str, now: datetime) -> Iterator[Question]:
    if served := _served(stage, host):
        yield Question("certificate", ("ask_certificate", *served), lambda answer: read_certificate(answer, stage, now))
    if not host.has_releases:
        return
    if paths := _files(stage):
        user = stage.app_user if stage.manager == "systemd" else ""
        yield Question("files", ("ask_files", user, *paths), lambda answer: read_files(answer, stage))
    if stage.services_on(host):
        yield Question("services", ("ask_services",), lambda answer: read_services(answer, stage, host))
    program = (templates() / "release" / "packages.py").read_text()
    yield Question("environment", ("ask_environment", program), read_environment, seconds=20)
    yield from _stores(stage)
    yield from backups.questions(stage, host, now)
    yield Question(
        "git",
        ("ask_git", stage.repository, ref),
        lambda answer: read_git(answer, ref),
        seconds=10,
        silence="bad",
        remedy=f"on the server, as {host.user}: git ls-remote {stage.repository}",
    )


def _stores(stage: Stage) -> Iterator[Question]:
    """Asked with the settings of what is live. Django's start alone takes seconds on a small server."""
    program = (templates() / "doctor" / "application.py").read_text()
    queues = [
        queue for one in stage.services.values() if services.is_celery(one) for queue in one.queues or ("celery",)
    ]
    common: dict[str, Any] = {"seconds": 12, "silence": "bad", "quiet": True}
    yield Question(
        "database",
        ("ask_program", program, "database"),
        read_database,
        remedy="is it up (systemctl status postgresql), and are its variables right (fab env.diff)?",
        **common,
    )
    yield Question(
        "redis",
        ("ask_program", program, "redis", *dict.fromkeys(queues)),
        read_redis,
        remedy="is it up (systemctl status redis-server), and are its variables right (fab env.diff)?",
        **common,
    )


def _files(stage: Stage) -> tuple[str, ...]:
    own = (stage.environment.file,) if stage.environment.file else ()
    return tuple(dict.fromkeys([*own, *stage.shared_files]))


def read_files(answer: Answer, stage: Stage) -> Iterator[Finding]:
    """The environment file, and what else must be there before anything is built."""
    shared, user = stage.layout.shared, stage.app_user
    for path in answer.every("absent"):
        own = path == stage.environment.file
        yield bad(
            "files",
            f"{shared / path} does not exist",
            "fab env.push FILE" if own else "put it there; it is never made up",
        )
    for path in answer.every("folder"):
        yield bad("files", f"{shared / path} is a directory and should be a file", "move it away")
    for path in answer.every("closed"):
        yield bad("files", f"you may not read {shared / path}", f"chgrp {user} and chmod 640 it, as root")
    hidden = answer.every("hidden")
    for path in hidden:
        yield bad(
            "files", f"{user}, who runs the services, may not read {shared / path}", f"chgrp {user}, chmod 640 it"
        )
    for line in answer.every("file"):
        mode, _, path = line.partition(" ")
        if path == stage.environment.file and int(mode[-1]) & 4:
            yield look("files", f"everybody on the server may read {shared / path}", f"chmod 640 {shared / path}")
        elif path not in hidden:
            yield ok("files", f"{shared / path}, mode {mode}")


def read_services(answer: Answer, stage: Stage, host: Host) -> Iterator[Finding]:
    """Their states are the survey's; how often they were started again, and what else failed, is asked."""
    live = answer.facts.current
    if live in ("", "!directory"):
        yield skipped("services", "nothing is live here yet")
        return
    found = []
    for name, service in stage.services_on(host).items():
        unit = name if service.kind == "beat" else f"{name}@{live}"
        state = answer.facts.units.get(unit, "inactive")
        if state not in WELL:
            grade = look if state in ("starting", "draining") else bad
            found.append(grade("services", f"{name} is {state}", f"fab logs --service {name}; fab start"))
    for line in answer.every("restarts"):
        count, _, unit = line.partition(" ")
        if unit.endswith(f"@{live}.service") or "@" not in unit:
            name = unit.removeprefix(f"{stage.known_as}-").partition("@")[0].removesuffix(".service")
            times = "once" if count == "1" else f"{count} times"
            found.append(
                look("services", f"{name} was started again {times}", f"fab logs --service {name} --lines 200")
            )
    told = backups.units(stage)
    for unit in [one for one in answer.every("failed") if one not in told]:
        found.append(look("services", f"{unit} has failed", f"systemctl status {unit}; systemctl reset-failed {unit}"))
    yield from found or [ok("services", f"{', '.join(stage.services_on(host))} run")]


def read_environment(answer: Answer) -> Iterator[Finding]:
    """A file that went bad on the disk is one with the file in uv's cache: every later release would share it."""
    found = [line.split("\t") for line in answer.every("damaged")]
    for package, file, what in found[:3]:
        yield bad("environment", f"{package}: {file} {what}", "fab deploy --force; is the disk failing (dmesg)?")
    if not found and answer.text.rstrip().endswith("compared"):
        yield ok("environment", "all files are as their packages say")


def read_database(answer: Answer) -> Iterator[Finding]:
    said = answer.json()
    if "error" in said:
        hint = said.get("hint") if not said.get("vendor") else ""
        yield bad("database", said["error"], hint or "is it up (systemctl status postgresql)? fab env.diff")
        return
    found = []
    if pending := said["pending"]:
        more = f" and {len(pending) - 2} more" if pending[2:] else ""
        applied = "is not applied" if len(pending) == 1 else "are not applied"
        found.append(look("database", f"{', '.join(pending[:2])}{more} {applied}", "fab manage migrate, or deploy"))
    for index in said.get("unfinished", []):
        mended = f"REINDEX INDEX CONCURRENTLY {index.rpartition(':')[2]}, or drop it"
        found.append(look("database", f"the index {index} is not finished: no query uses it", mended))
    if said.get("hidden"):
        value = f"row-level security hides rows of {said['hidden']} from {said['role']}: no backup can be taken"
        hint = f"as postgres: ALTER ROLE {said['role']} BYPASSRLS; or NO FORCE ROW LEVEL SECURITY for its own tables"
        found.append(look("database", value, hint))
    if said.get("checksums") == "off":
        hint = "pg_checksums --enable, while PostgreSQL is stopped"
        found.append(look("database", "without data checksums a bad disk is not noticed", hint))
    if said.get("most") and said["connections"] > said["most"] * 0.8:
        value = f"{said['connections']} of {said['most']} connections are in use"
        found.append(look("database", value, "raise max_connections, or use fewer workers and threads"))
    others = "".join(f", as is {alias}" for alias in said.get("also", []))
    others += "".join(f"; {alias} is not ours to migrate" for alias in said.get("left", []))
    if found:
        yield from found
    elif said["vendor"] == "postgresql":
        size, used = f"{said['bytes'] / 1e6:.0f} MB", f"{said['connections']} of {said['most']} connections"
        yield ok("database", f"PostgreSQL {said['version'].split()[0]}, {size}, {used}, migrated{others}")
    else:
        yield ok("database", f"{said['vendor']}, migrated{others}")


def read_redis(answer: Answer) -> Iterator[Finding]:
    servers = answer.json()["servers"]
    if not servers:
        yield skipped("redis", "no variable of the environment names one")
    for one in servers:
        yield _redis(one["name"], one)


def _redis(name: str, said: dict[str, Any]) -> Finding:
    if "error" in said:
        hint = "is it up (systemctl status redis-server), and is its password right?"
        return bad("redis", f"{name}: {said['error']}", hint)
    waiting = {queue: count for queue, count in said["waiting"].items() if count}
    most = int(said.get("maxmemory") or 0)
    if most and said["waiting"] and said.get("maxmemory_policy") != "noeviction":
        policy = said.get("maxmemory_policy")
        return look("redis", f"{name}: tasks are dropped when memory is full ({policy})", "maxmemory-policy noeviction")
    if most and int(said["used_memory"]) > most * 0.8:
        return look("redis", f"{name}: {int(said['used_memory']) * 100 // most} % of maxmemory", "raise maxmemory")
    told = ", ".join(f"{count} in {queue}" for queue, count in waiting.items())
    if any(count > MANY_TASKS for count in waiting.values()):
        return look("redis", f"{name}: {told}", "do the workers keep up? fab logs --service worker")
    return ok("redis", f"Redis {said.get('redis_version', '?')} at {name}, {told or 'nothing'} waits")


def is_door(stage: Stage, host: Host) -> bool:
    """Whether users come in there."""
    return host in (stage.with_role("balancer") or stage.with_role("web"))


def _served(stage: Stage, host: Host) -> tuple[str, str] | None:
    """(address as the server sees it, name in the certificate), where https is spoken at all."""
    if not is_door(stage, host):
        return None
    if stage.is_encrypted:
        return "127.0.0.1:443", stage.domain
    front = urlsplit(stage.health.front)
    if front.scheme != "https" or not front.hostname:
        return None
    at_home = front.hostname in ("127.0.0.1", "localhost")
    name = stage.domain if at_home and stage.domain else front.hostname
    return f"{front.hostname}:{front.port or 443}", name.partition(":")[0]


def read_certificate(answer: Answer, stage: Stage, now: datetime) -> Iterator[Finding]:
    """As it is served: whoever renewed the file and did not tell nginx is found out."""
    if answer.text.strip() == "none":
        yield bad("certificate", "nothing speaks TLS where users come in", "systemctl status nginx; fab provision")
        return
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(answer.one("notAfter")), UTC)
    left, value = ends - now, f"ends {ends:%Y-%m-%d}"
    hint = f"put a new one at {stage.certificate or 'its place'}, then systemctl reload nginx"
    if stage.tls.certificate == "certbot":
        hint = "as root: certbot renew --dry-run; systemctl status certbot.timer"
    if answer.text.strip().endswith("stranger"):
        yield bad("certificate", f"is not for {stage.domain or 'this name'}", "fab provision")
    if left < timedelta():
        yield bad("certificate", f"ended {ends:%Y-%m-%d}", hint)
    elif left < SOON:
        days = "1 day" if left.days == 1 else f"{left.days} days"
        yield (bad if left < NOW else look)("certificate", f"{value}, in {days}", hint)
    else:
        yield ok("certificate", value)


def read_git(answer: Answer, ref: str) -> Iterator[Finding]:
    if error := answer.one("error"):
        yield bad("git", error, answer.one("hint"))
    elif sha := answer.one("revision"):
        yield ok("git", f"{ref} is {sha[:7]}" if PurePosixPath(ref).name != sha else f"{sha[:7]} is asked for")
