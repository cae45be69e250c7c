"""PostgreSQL and Redis for the application alone, and the first environment file that says how to reach them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import SplitResult, unquote, urlsplit

from ...model import naming
from ...model.call import Call, call
from ...model.config import Host, Stage
from ...model.errors import FailedError
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, script
from ...server import extensions
from ...server.make import database as make
from ...server.make import secret_file
from ...server.values.names import REDIS_PORT
from .. import files, variables
from . import bouncer, postgres, redis, replica
from .seeds import Offsite as Offsite
from .seeds import Seeds as Seeds
from .things import once, part


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
    urls = dict(_urls(text))
    passwords = {name: Secret(unquote(url.password or "")) for name, url in urls.items()}
    return replace(
        made,
        environment=Secret(text),
        fresh=False,
        database=passwords.get("DATABASE_URL", made.database),
        redis=passwords.get("REDIS_URL", made.redis),
        redis_port=_port(urls.get("REDIS_URL")),
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


def _urls(text: str) -> Iterator[tuple[str, SplitResult]]:
    """Name of a variable, and the address with a password that it is."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        try:
            url = urlsplit(value.strip().strip("'\""))
            url.port  # noqa: B018  (ValueError where it is none)
        except ValueError:
            continue
        if url.password:
            yield name.strip().removeprefix("export "), url


def _port(url: SplitResult | None) -> int:
    """0 for an address that there is not."""
    return (url.port or REDIS_PORT) if url else 0


def parts(stage: Stage, host: Host, facts: dict[str, str], seeds: Seeds) -> tuple[Part, ...]:
    found: tuple[Part, ...] = ()
    if host == stage.database_host and stage.has_postgresql:
        found += (_postgresql(stage, host, postgres.version(facts), seeds), *bouncer.parts(stage, host, seeds))
    found += replica.parts(stage, host, facts, seeds.replication)
    found += redis.parts(stage, host, facts, seeds)
    environment = stage.environment
    if host.has_releases and stage.provision.environment and environment.file and environment.format != "none":
        found += (part("environment", "Write the first environment file", _environment(stage, host, facts, seeds)),)
    return found


def _postgresql(stage: Stage, host: Host, version: str, seeds: Seeds) -> Part:
    """The role may create databases, which restores beside the live one need; nothing else."""
    name = stage.known_as
    role = Thing(
        "database role",
        seeds.look("look_role", name),
        "login\nmay create databases",
        script(call(make.application_role, role=name, password=seeds.database)),
    )
    made = script(call(make.database, name=name, owner=name))
    database = Thing("database", ("look_database", name), f"owner {name}, UTF8", made)
    copies = replica.of_primary(stage, seeds.replication, known=seeds.replicates)
    reached = postgres.reached(stage, host, version)
    own = (*postgres.cluster(version), role, database, *_extensions(stage.provision.extensions, name))
    if not reached and "postgresql" not in host.roles:
        return part("postgresql", "Set up PostgreSQL", *own)
    users = dict.fromkeys(one.user for one in (host, *stage.replicas))
    watchers = [
        Thing(f"role of {one}", ("look_watcher", one), "login", script(call(make.watcher, role=one))) for one in users
    ]
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


def _environment(stage: Stage, host: Host, facts: dict[str, str], seeds: Seeds) -> Thing:
    seeds = replace(seeds, redis_port=redis.port(facts, seeds))
    path, mode = stage.layout.shared / stage.environment.file, "640"
    text = seeds.environment or Secret(first_environment(stage, seeds))
    return once(f"environment file {path}", path, host.user, naming.readers(stage.app_user), mode, text)


def first_environment(stage: Stage, seeds: Seeds) -> str:
    """As templates/environment.j2 has it, with the secrets in place."""
    return files.render(
        "environment",
        stage,
        database_at=f"{stage.place_of(stage.database_host)}:{bouncer.PORT if stage.has_bouncer else 5432}",
        redis_at=stage.place_of(stage.redis_host),
        database=seeds.database.value,
        redis=seeds.redis.value,
        redis_port=seeds.redis_port or REDIS_PORT,
        secret_key=seeds.secret_key.value,
    )


def read(stage: Stage, host: Host) -> Script:
    """What a host of the stage knows already, as `known_of` understands it. Each file is read by whose it is."""
    return script(read_environment(stage, host), call(secret_file.read, replica.PASSFILE, "postgres"))


def read_environment(stage: Stage, host: Host) -> Call[Secret | None]:
    name = stage.environment.file
    return call(secret_file.read, str(stage.layout.shared / name) if name else "", host.user)
