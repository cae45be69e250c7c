"""Hosts that switch in batches, behind a balancer: no user is sent to one while it is changed."""

from __future__ import annotations

from dataclasses import replace

from ..model.config import Host, Stage
from ..model.plan import Phase, Step
from ..remote import balancer


def balancers(stage: Stage, batch: int) -> tuple[Host, ...]:
    """Who takes part, besides the hosts that are deployed to."""
    return stage.balancers if batch or stage.batch else ()


def drained(stage: Stage, switch: Phase, balancers: tuple[Host, ...]) -> tuple[Phase, ...]:
    """The same, each batch between "no more requests" and "requests again". The switch itself loses none, so a batch
    that is all there is stays where it is.
    """
    web = {one.name: one for one in stage.with_role("web") if one.name in switch.hosts}
    if not balancers or not switch.batch:
        return (switch,)
    phases: list[Phase] = []
    for start in range(0, len(switch.hosts), switch.batch):
        names = switch.hosts[start : start + switch.batch]
        hosts = tuple(web[name] for name in names if name in web)
        one = replace(switch, steps={name: switch.steps[name] for name in names})
        if not hosts or len(hosts) == len(stage.with_role("web")):
            phases.append(one)
            continue
        told = ", ".join(host.name for host in hosts)
        back = balancer.undrain_after(stage, hosts)
        away = Step("drain", f"Send {told} no more requests", balancer.drain_for_now(stage, hosts), back)
        again = Step("undrain", f"Send {told} requests again", back)
        phases += [
            Phase("drain", f"Drain {told}", {host.name: (away,) for host in balancers}, visible=True),
            one,
            Phase("undrain", f"Put {told} back", {host.name: (again,) for host in balancers}, visible=True),
        ]
    return tuple(phases)
