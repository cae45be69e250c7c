"""A rollback: the same switch, to a release that was live before, with the database question answered first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..model.call import call
from ..model.config import Host, Stage
from ..model.errors import PreflightError
from ..model.facts import HostFacts
from ..model.plan import Phase, Plan, Step
from ..model.release import rollback_target
from ..model.shell import script
from ..remote import backup, django, services
from ..remote import release as releases
from ..server import releases as on_server
from . import rolling

Database = Literal["code-only", "reverse", "restore"]


def target(facts: Mapping[str, HostFacts], to: str = "", steps: int = 1) -> str:
    """The release every host goes back to. PreflightError where there is none, or hosts disagree."""
    found = {}
    for host, seen in facts.items():
        if not seen.current:
            raise PreflightError(f"{host}: nothing is live, so there is nothing to go back from", "fab deploy")
        one = to or rollback_target(seen.current, seen.releases, seen.journal, steps, seen.incomplete)
        if not one:
            raise PreflightError(
                f"{host}: no release that was live before {seen.current} is kept, so there is nothing to go back to",
                "`fab releases` lists what there is; `fab deploy --ref COMMIT` builds any other commit",
            )
        _may_return(host, seen, one)
        found[host] = one
    if len(set(found.values())) > 1:
        told = ", ".join(f"{host} to {one}" for host, one in found.items())
        raise PreflightError(
            f"the hosts would go back to different releases: {told}", "choose one: fab rollback --to ID"
        )
    return next(iter(found.values()))


def _may_return(host: str, seen: HostFacts, id: str) -> None:
    release = seen.release(id)
    if release is None:
        raise PreflightError(f"{host}: there is no release {id}", "`fab releases` lists what there is")
    if id == seen.current:
        raise PreflightError(f"{host}: {id} is live already", "")
    if id in seen.incomplete:
        raise PreflightError(f"{host}: {id} is not complete", f"`fab deploy --ref {release.sha}` builds it again")
    if release.state not in ("retired", "bad"):
        raise PreflightError(f"{host}: {id} was never live", "`fab releases` lists what was")
    if release.state == "bad" and not any(one.event == "live" and one.release == id for one in seen.journal):
        raise PreflightError(f"{host}: {id} failed before it went live", "`fab releases` lists what was live")


def plan(
    stage: Stage,
    facts: Mapping[str, HostFacts],
    id: str,
    who: str,
    database: Database,
    batch: int = 0,
    balancers: tuple[Host, ...] = (),
) -> Plan:
    """`database`: what `fab rollback` decided: leave it, reverse migrations by the newer code first, or restore it."""
    hosts = [host for host in stage.hosts if host.name in facts]
    primary = stage.primary.name
    switch = Phase(
        "switch",
        "Switch",
        {host.name: _switch(stage, host, facts[host.name].current, id, who, database) for host in hosts},
        batch=batch or stage.batch,
        visible=True,
    )
    phases = (
        Phase(
            "prepare", f"Prepare {id}", {host.name: _prepare(stage, host, facts[host.name], id, who) for host in hosts}
        ),
        Phase(
            "database",
            "Take the database back",
            {
                host.name: _database(facts[host.name].current, id, who, database) if host.name == primary else ()
                for host in hosts
            },
        ),
        *rolling.drained(stage, switch, balancers),
        Phase(
            "finish",
            "Tidy up",
            {host.name: _finish(stage, host) for host in hosts},
            must=False,
        ),
    )
    return Plan("rollback", stage.name, tuple(host.name for host in (*hosts, *balancers)), phases, release=id)


def _prepare(stage: Stage, host: Host, seen: HostFacts, id: str, who: str) -> tuple[Step, ...]:
    return (
        Step("repair", "Tidy up after earlier runs", releases.repair(stage, seen.current, who)),
        Step(
            "start",
            "Start its processes",
            # Users wait for the web processes: workers do not take the processor from them.
            script(call(on_server.refuse_incomplete, id))
            + services.start(stage, host, id, "web")
            + services.await_ready(stage, host, id, "web")
            + services.start(stage, host, id, "worker"),
            services.stop(stage, host, id),
        ),
        Step("health", "Ask its health", releases.healthy(stage, host, id)),
    )


def _finish(stage: Stage, host: Host) -> tuple[Step, ...]:
    beat = services.await_beat(stage, host)
    retire = Step("retire", "Retire the newer generation", services.retire())
    return (retire, Step("beat-well", "See beat running", beat)) if beat else (retire,)


def _database(current: str, id: str, who: str, database: Database) -> tuple[Step, ...]:
    if database == "reverse":
        return (
            Step(
                "reverse",
                f"Reverse the migrations {id} does not know",
                django.reverse(current, id),
                django.migrate_again(current),
                lasting=True,
            ),
        )
    if database == "restore":
        return (
            Step(
                "restore",
                f"Restore the database from before {current}",
                backup.restore_point(current, who),
                backup.unswap(current, who),
                lasting=True,
            ),
        )
    return ()


def _switch(stage: Stage, host: Host, current: str, id: str, who: str, database: Database) -> tuple[Step, ...]:
    said = releases.activate(stage, host, id, current, who, leaves="bad", note=f"rollback, {database}")
    beat = services.hand_over(stage, host)
    return (
        Step("switch", "Switch and prove it", said, releases.put_back(id, current, who, "retired") + beat, seen=True),
        Step("beat", "Hand over beat", beat),
    )
