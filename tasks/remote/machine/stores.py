"""PostgreSQL and Redis for the application alone, and the first environment file that says how to reach them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, Word, script
from .. import files
from .things import file, last_line, part, unit

REDIS_CONF = "/etc/redis/fab-releases.conf"


def _made() -> Secret:
    return Secret(secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Offsite:
    """What opens the repository away from the server."""

    key: Secret = field(default_factory=lambda: Secret(""))
    variables: Secret = field(default_factory=lambda: Secret(""))
    """Lines NAME=value."""


@dataclass(frozen=True)
class Seeds:
    """Secrets of a stage: what its environment file says, or made anew where there is none yet.

    Made anew, they must also reach a database and a Redis that are there already: `look` then sees neither.
    """

    environment: Secret | None = None
    """The file as another host of the stage has it."""
    fresh: bool = True
    database: Secret = field(default_factory=_made)
    redis: Secret = field(default_factory=_made)
    secret_key: Secret = field(default_factory=_made)
    offsite: Offsite = field(default_factory=Offsite)

    def look(self, *call: Word) -> tuple[Word, ...]:
        return ("look_nothing",) if self.fresh else call


def seeds_of(text: str | None) -> Seeds:
    """What an existing environment file says; its passwords are the ones the servers must know."""
    if text is None:
        return Seeds()
    passwords = dict(_passwords(text))
    made = Seeds()
    return Seeds(
        Secret(text), False, passwords.get("DATABASE_URL", made.database), passwords.get("REDIS_URL", made.redis)
    )


def _passwords(text: str) -> Mapping[str, Secret]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        try:
            password = urlsplit(value.strip().strip("'\"")).password
        except ValueError:
            continue
        if password:
            found[name.strip().removeprefix("export ")] = Secret(unquote(password))
    return found


def parts(stage: Stage, host: Host, seeds: Seeds) -> tuple[Part, ...]:
    found: tuple[Part, ...] = ()
    if stage.stores_on(host) and stage.has_postgresql:
        found += (_postgresql(stage, seeds),)
    if stage.stores_on(host) and stage.provision.redis:
        found += (_redis(stage, seeds),)
    if stage.provision.environment and stage.environment.file and stage.environment.format != "none":
        found += (part("environment", "Write the first environment file", _environment(stage, host, seeds)),)
    return found


def _postgresql(stage: Stage, seeds: Seeds) -> Part:
    """The role may create databases, which restores beside the live one need; nothing else."""
    name = stage.application
    role = Thing(
        "database role",
        seeds.look("look_role", name),
        "login\nmay create databases",
        script(("make_role", name, seeds.database)),
    )
    database = Thing("database", ("look_database", name), f"owner {name}, UTF8", script(("make_database", name, name)))
    return part("postgresql", "Set up PostgreSQL", unit("postgresql.service"), role, database)


def _redis(stage: Stage, seeds: Seeds) -> Part:
    rules = "~* &* +@all -@admin -@dangerous +info"
    user = Thing(
        "Redis user",
        seeds.look("look_redis_user", stage.application),
        f"user default off\nuser {stage.application} on * {rules}",
        script(("make_redis_user", stage.application, seeds.redis)),
    )
    return part(
        "redis",
        "Set up Redis",
        unit("redis-server.service"),
        user,
        file(REDIS_CONF, files.render("redis.conf", stage), "640", "root", "redis"),
        last_line("/etc/redis/redis.conf", f"include {REDIS_CONF}"),
        use=("restart", "redis-server.service"),
    )


def _environment(stage: Stage, host: Host, seeds: Seeds) -> Thing:
    path, mode = stage.layout.shared / stage.environment.file, "640"
    text: Word = seeds.environment or Secret(first_environment(stage, seeds))
    return Thing(
        f"file {path}",
        ("look_owner", path),
        f"regular file, {host.user}:{stage.app_user} {mode}",
        script(("make_environment", path, host.user, stage.app_user, mode, text)),
    )


def first_environment(stage: Stage, seeds: Seeds) -> str:
    """As templates/environment.j2 has it, with the secrets in place."""
    where = "127.0.0.1" if len(stage.hosts) == 1 else stage.primary.address
    return files.render(
        "environment",
        stage,
        where=where,
        database=seeds.database.value,
        redis=seeds.redis.value,
        secret_key=seeds.secret_key.value,
    )


def read(stage: Stage) -> Script:
    return script(("read_environment", stage.layout.shared / stage.environment.file))
