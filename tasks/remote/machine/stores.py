"""PostgreSQL and Redis for the application alone, and the first environment file that says how to reach them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from ...model.call import Call, call
from ...model.config import Host, Stage
from ...model.errors import FailedError
from ...model.machine import Part, Thing
from ...model.shell import Line, Script, Secret, Word, script
from ...server import extensions
from ...server.make import redis_user, secret_file
from .. import files, variables
from . import bouncer, firewall, postgres, replica
from .things import file, last_line, once, part, unit

REDIS_CONF = "/etc/redis/fab-releases.conf"
AFTER_NETWORK = """\
# It binds to an address that must be there. Written by fab-releases.
[Unit]
After=network-online.target
Wants=network-online.target
"""


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
    archive: Secret = field(default_factory=_made)
    """The key of an archive that does not exist yet; one that does is never read from the server."""
    replication: Secret = field(default_factory=_made)
    replicates: bool = False
    """`replication` is what a copy knows; made anew, the database must learn it as well."""

    @property
    def in_place(self) -> Seeds:
        """When everything has been made with them."""
        return replace(self, fresh=False, replicates=True)

    def look(self, *words: Word) -> tuple[Word, ...]:
        return ("look_nothing",) if self.fresh else words

    def look_by(self, asked: Call[object]) -> Line | Call[object]:
        return ("look_nothing",) if self.fresh else asked


def known_of(environment: Secret | None, passfile: Secret | None) -> dict[str, str]:
    """As `read` is answered -> "environment", the file's text, and "replication", a password, of what is there."""
    found = {"environment": environment.value} if environment else {}
    return found | ({"replication": replica.password_of(passfile.value)} if passfile else {})


def seeds_of(text: str | None, replication: str = "") -> Seeds:
    """What an existing environment file says, and what a copy of the database knows (""  where there is none): the
    servers must know the same.
    """
    made = Seeds()
    if replication:
        made = replace(made, replication=Secret(replication), replicates=True)
    if text is None:
        return made
    passwords = dict(_passwords(text))
    return replace(
        made,
        environment=Secret(text),
        fresh=False,
        database=passwords.get("DATABASE_URL", made.database),
        redis=passwords.get("REDIS_URL", made.redis),
    )


def webhook(stage: Stage, seeds: Seeds) -> Secret | None:
    """Whom the application's environment file names to be told of failures; None where it names nobody yet."""
    name, asked = stage.notify.webhook_variable, stage.environment
    if not name or asked.format == "none":
        return None
    try:
        known = variables.read(seeds.environment.value if seeds.environment else "", asked.format, asked.file)
    except FailedError:
        return None  # told by what reads it to use it
    found = {**asked.set, **known}.get(name, "")
    return Secret(found) if found else None


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


def parts(stage: Stage, host: Host, facts: dict[str, str], seeds: Seeds) -> tuple[Part, ...]:
    found: tuple[Part, ...] = ()
    if host == stage.database_host and stage.has_postgresql:
        found += (_postgresql(stage, host, postgres.version(facts), seeds), *bouncer.parts(stage, host, seeds.look))
    found += replica.parts(stage, host, facts, seeds.replication)
    if host == stage.redis_host and stage.provision.redis:
        found += (_redis(stage, host, seeds),)
    environment = stage.environment
    if host.has_releases and stage.provision.environment and environment.file and environment.format != "none":
        found += (part("environment", "Write the first environment file", _environment(stage, host, seeds)),)
    return found


def _postgresql(stage: Stage, host: Host, version: str, seeds: Seeds) -> Part:
    """The role may create databases, which restores beside the live one need; nothing else."""
    name = stage.name_on_servers
    role = Thing(
        "database role",
        seeds.look("look_role", name),
        "login\nmay create databases",
        script(("make_role", name, seeds.database)),
    )
    database = Thing("database", ("look_database", name), f"owner {name}, UTF8", script(("make_database", name, name)))
    copies = replica.of_primary(stage, seeds.replication, known=seeds.replicates)
    reached = postgres.reached(stage, host, version)
    own = (*postgres.cluster(version), role, database, *_extensions(stage.provision.extensions, name))
    if not reached and "postgresql" not in host.roles:
        return part("postgresql", "Set up PostgreSQL", *own)
    users = dict.fromkeys(one.user for one in (host, *stage.replicas))
    watchers = [Thing(f"role of {one}", ("look_watcher", one), "login", script(("make_watcher", one))) for one in users]
    return part(
        "postgresql",
        "Set up PostgreSQL",
        *(*own, *watchers, *copies, *reached),
        check=postgres.CHECK,
        use=postgres.use(version),
    )


def _extensions(wanted: tuple[str, ...], database: str) -> tuple[Thing, ...]:
    if not wanted:
        return ()
    name = "extensions"
    want = "\n".join(f"{one} in the {place}" for place in ("database", "template") for one in wanted)
    made = script(call(extensions.make, database, wanted))
    return (Thing(name, call(extensions.look, name, database, wanted), want, made),)


def _redis(stage: Stage, host: Host, seeds: Seeds) -> Part:
    """It listens where the hosts of the stage find it and nowhere else; its only user has a password."""
    rules = "~* &* +@all -@admin -@dangerous +info"
    strangers = stage.strangers_to(host)
    user = Thing(
        "Redis user",
        seeds.look_by(call(redis_user.look, "Redis user", stage.name_on_servers)),
        f"user default off\nuser {stage.name_on_servers} on * {rules}",
        script(call(redis_user.make, stage.name_on_servers, seeds.redis, rules)),
    )
    conf = files.render("redis.conf", stage, address=firewall.address(host) if strangers else "")
    late = file("/etc/systemd/system/redis-server.service.d/fab-releases.conf", AFTER_NETWORK)
    return part(
        "redis",
        "Set up Redis",
        *((late,) if strangers else ()),
        unit("redis-server.service"),
        user,
        file(REDIS_CONF, conf, "640", "root", "redis"),
        last_line("/etc/redis/redis.conf", f"include {REDIS_CONF}"),
        *firewall.lets_in(stage, strangers, 6379),
        use=("restart_anew", "redis-server.service"),
    )


def _environment(stage: Stage, host: Host, seeds: Seeds) -> Thing:
    path, mode = stage.layout.shared / stage.environment.file, "640"
    text = seeds.environment or Secret(first_environment(stage, seeds))
    return once(f"environment file {path}", path, host.user, stage.app_user, mode, text)


def first_environment(stage: Stage, seeds: Seeds) -> str:
    """As templates/environment.j2 has it, with the secrets in place."""
    return files.render(
        "environment",
        stage,
        database_at=f"{stage.place_of(stage.database_host)}:{bouncer.PORT if stage.has_bouncer else 5432}",
        redis_at=stage.place_of(stage.redis_host),
        database=seeds.database.value,
        redis=seeds.redis.value,
        secret_key=seeds.secret_key.value,
    )


def read(stage: Stage, host: Host) -> Script:
    """What a host of the stage knows already, as `known_of` understands it. Each file is read by whose it is."""
    return script(read_environment(stage, host), call(secret_file.read, replica.PASSFILE, "postgres"))


def read_environment(stage: Stage, host: Host) -> Call[Secret | None]:
    name = stage.environment.file
    return call(secret_file.read, str(stage.layout.shared / name) if name else "", host.user)
