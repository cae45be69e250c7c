"""`fab drain`, `fab undrain`: whether the balancer sends users to a host."""

from __future__ import annotations

import invoke

from ._operator import load_stage
from ._scene import scene, talk
from ._task import task
from .model.config import Host, Stage
from .model.errors import UsageError
from .model.event import Note
from .model.shell import Script
from .remote import balancer


@task(help={"host": "one with the role web"}, positional=["host"])
def drain(context: invoke.Context, host: str, stage: str = "") -> None:
    """Send a host no more users, until `fab undrain`; what it was asked before it answers."""
    here = load_stage(stage)
    _tell(context, here, balancer.drain(here, _web(here, host)), f"{host} gets no more requests")


@task(help={"host": "one with the role web"}, positional=["host"])
def undrain(context: invoke.Context, host: str, stage: str = "") -> None:
    """Send a host users again."""
    here = load_stage(stage)
    _tell(context, here, balancer.undrain(here, _web(here, host)), f"{host} gets requests again")


def _web(stage: Stage, name: str) -> Host:
    if not stage.balancers:
        raise UsageError(f"stage {stage.name} has no balancer", "a host with the role balancer, then fab provision")
    names = [one.name for one in stage.with_role("web")]
    if name not in names:
        raise UsageError(f"{name} is not a host with the role web", f"they are {', '.join(names)}")
    return stage.host(name)


def _tell(context: invoke.Context, stage: Stage, said: Script, done: str) -> None:
    with talk() as tell, scene(context, stage, tell, among=(), also=stage.balancers) as at:
        at.lock(done)
        at.say(said)
        at.tell(Note(f"{stage.name}: {done}"))


TASKS = ("drain", "undrain")
