"""What a stage has to itself on a server: written down there, so that no other stage is made to take it."""

from __future__ import annotations

from collections.abc import Iterator

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from ...server.make import register
from ...server.values.names import EVERY_NAME
from .. import files
from .things import part


def parts(stage: Stage, host: Host) -> tuple[Part, ...]:
    """Looked at before anything is made: what another stage of the server has ends the run there."""
    name, held, known_as = "names of the stage", tuple(holds(stage, host)), stage.name_on_servers
    look, made = call(register.look, name, known_as, held), call(register.make, known_as, held)
    return (part("stage", "Register the stage", Thing(name, look, "\n".join(held), script(made))),)


def holds(stage: Stage, host: Host) -> Iterator[str]:
    """ "KIND VALUE": what no other stage of the server may have. All else there is called after `name`."""
    yield f"name {stage.name_on_servers}"
    yield f"folder {stage.deploy_to}"
    if host.has_releases:
        yield f"account {stage.app_user}"
        # One application's service "admin-web" would be called as the service "web" of an application NAME-admin.
        yield from (f"unit {path.rpartition('/')[2]}" for path in files.units(stage, host))
    if stage.provision.nginx and ("web" in host.roles or host in stage.balancers):
        yield from (f"domain {one}" for one in stage.names or (EVERY_NAME,))
    if stage.is_archived and host == stage.database_host:
        yield "archive of PostgreSQL"
