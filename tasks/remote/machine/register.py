"""What a stage has to itself on a server: written down there, so that no other stage is made to take it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from ...server.make import register
from ...server.values.names import EVERY_NAME
from .. import files
from . import postgres
from .things import part


def parts(stage: Stage, host: Host, redis_port: int, rules: Iterable[str]) -> tuple[Part, ...]:
    """Looked at before anything is made: what another stage of the server has ends the run there.

    `rules` are those of the firewall, which no other stage's provisioning may drop.
    """
    redis = (f"port {redis_port}",) if stage.provision.redis and host == stage.redis_host else ()
    held = (*holds(stage, host), *redis, *(f"rule {rule}" for rule in rules))
    name, known_as = "names of the stage", stage.known_as
    look, made = call(register.look, name, known_as, held), call(register.make, known_as, held)
    return (part("stage", "Register the stage", Thing(name, look, "\n".join(held), script(made))),)


def holds(stage: Stage, host: Host) -> Iterator[str]:
    """ "KIND VALUE": what no other stage of the server may have. All else there is called after `name`."""
    yield f"name {stage.known_as}"
    yield f"folder {stage.deploy_to}"
    if host.has_releases:
        yield f"account {stage.app_user}"
        # One application's service "admin-web" would be called as the service "web" of an application NAME-admin.
        yield from (f"unit {path.rpartition('/')[2]}" for path in files.units(stage, host))
    if stage.provision.nginx and ("web" in host.roles or host in stage.balancers):
        yield from (f"domain {one}" for one in stage.names or (EVERY_NAME,))
    if host == stage.database_host and stage.has_postgresql:
        yield from _of_the_database(stage, host)


def _of_the_database(stage: Stage, host: Host) -> Iterator[str]:
    """Of "shared" ones both stages must say the same, for one file says it for all."""
    if stage.is_archived:
        yield "archive of PostgreSQL"
    if stage.has_bouncer:
        yield f"shared pgBouncer: {'reached from outside' if stage.strangers_to(host) else 'for this server alone'}"
    if postgres.is_reached(stage, host):
        yield f"shared PostgreSQL: {'with' if stage.replicas else 'without'} replicas"
