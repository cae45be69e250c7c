"""A copy of the database that follows it, on a host of its own: PostgreSQL's streaming replication."""

from __future__ import annotations

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Secret, script
from ...server.make import database as make
from . import firewall, postgres
from .things import file, once, part

PASSFILE = "/var/lib/postgresql/fab-releases.pgpass"


def of_primary(stage: Stage, password: Secret, *, known: bool) -> tuple[Thing, ...]:
    """What the database has for its copies: a role that may do nothing else, and a slot for each."""
    if not stage.replicas:
        return ()
    role = postgres.replicator(stage)
    look = ("look_replicator", role) if known else ("look_nothing",)
    made = script(call(make.replicator, role=role, password=password))
    slots = [postgres.slot(stage, one) for one in stage.replicas]
    return (
        Thing("replication role", look, "login\nmay replicate", made),
        *(Thing(f"replication slot {one}", ("look_slot", one), "there", script(("make_slot", one))) for one in slots),
    )


def parts(stage: Stage, host: Host, facts: dict[str, str], password: Secret) -> tuple[Part, ...]:
    """Data that is there already is never replaced: make_replica refuses."""
    if host not in stage.replicas or not stage.has_postgresql:
        return ()
    version, role, address = postgres.version(facts), postgres.replicator(stage), firewall.address(stage.database_host)
    slot = postgres.slot(stage, host)
    follows = f"host={address} port=5432 user={role} passfile={PASSFILE} sslmode=require application_name={slot}"
    settings = f"# Written by fab-releases.\nprimary_conninfo = '{follows}'\nprimary_slot_name = '{slot}'\n"
    path = f"{postgres.folder(version)}/conf.d/fab-releases-replica.conf"
    line = Secret(f"*:*:*:{role}:{password.value}\n")
    passfile = once(f"password in {PASSFILE}", PASSFILE, "postgres", "postgres", "600", line)
    copy = Thing(
        "replica",
        ("look_replica",),
        f"in recovery\nstreaming from {address}",
        script(("make_replica", version, slot, follows)),
    )
    return (
        part(
            "replica",
            "Follow the database",
            *postgres.cluster(version),
            passfile,
            *postgres.reached(stage, host, version),
            file(path, settings, "644", "postgres", "postgres"),
            copy,
            use=("use_replica", version, address),
        ),
    )


def password_of(passfile: str) -> str:
    """The last field of its first line; "" where there is none."""
    return passfile.partition("\n")[0].rpartition(":")[2]
