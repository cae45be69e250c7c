"""How PostgreSQL lets in the other hosts of a stage: addresses, encryption, passwords, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from ...model import naming
from ...model.config import Host, Stage
from ...model.machine import Thing
from ...model.shell import Word, script
from . import firewall
from .things import block, file, unit

VERSIONS = {"debian 12": "15", "debian 13": "17", "ubuntu 24.04": "16"}
"""What each system brings along."""


def version(facts: dict[str, str]) -> str:
    return VERSIONS[facts["os"]]


def folder(version: str) -> str:
    return f"/etc/postgresql/{version}/main"


def replicator(stage: Stage) -> str:
    """The role and the prefix of the slots by which copies follow."""
    return f"{stage.word}_replica"


def slot(stage: Stage, host: Host) -> str:
    """Slots know small letters, digits and _ (PostgreSQL 15, 27.2.6)."""
    return f"{replicator(stage)}_{naming.word(host.name)}"


def reached(stage: Stage, host: Host, version: str) -> tuple[Thing, ...]:
    """All addresses are listened on: one that comes up after PostgreSQL would be missed. Lines of pg_hba.conf and the
    firewall say who may come.
    """
    lines = list(_lines(stage, host))
    if not lines:
        return ()
    guests = {one.name: one for one in (*stage.strangers_to(host), *_copies(stage, host))}
    return (
        file(f"{folder(version)}/conf.d/fab-releases.conf", _settings(stage), "644", "postgres", "postgres"),
        block(f"{folder(version)}/pg_hba.conf", "\n".join(lines), stage.known_as),
        *firewall.lets_in(stage, guests.values(), 5432),
    )


def is_reached(stage: Stage, host: Host) -> bool:
    """By another host than its own."""
    return bool(stage.strangers_to(host) or _copies(stage, host))


CHECK: tuple[Word, ...] = ("hba_is_well",)


def cluster(version: str) -> tuple[Thing, ...]:
    made = script(("make_cluster", version))
    return (unit("postgresql.service"), Thing("database cluster", ("look_cluster", version), "there", made))


def use(version: str) -> tuple[Word, ...]:
    return ("use_postgresql", version)


def _settings(stage: Stage) -> str:
    """A copy that is away for long must not fill the disk of the database."""
    kept = "max_slot_wal_keep_size = '4GB'\n" if stage.replicas else ""
    return f"# Written by fab-releases. Who may come is in pg_hba.conf.\nlisten_addresses = '*'\n{kept}"


def _copies(stage: Stage, host: Host) -> tuple[Host, ...]:
    return stage.replicas if host == stage.database_host else ()


def _lines(stage: Stage, host: Host) -> Iterator[str]:
    for one in stage.strangers_to(host):
        yield f'hostssl all "{stage.known_as}" {_only(one)} scram-sha-256'
    for one in _copies(stage, host):
        yield f'hostssl replication "{replicator(stage)}" {_only(one)} scram-sha-256'


def _only(host: Host) -> str:
    address = firewall.address(host)
    return f"{address}/{128 if ':' in address else 32}"
