"""What servers have already and releases.toml leaves open: the account the services run as, the port of Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ._scene import Scene, must
from .engine.execute import ask
from .model import naming
from .model.call import Call, call
from .model.event import Note
from .model.shell import script
from .server.make import account, redis_port, register

Facts = dict[str, dict[str, str]]


def complete(at: Scene, facts: Facts) -> None:
    """Puts the account into the stage of `at`; the port of Redis and what other stages let in, into the facts.

    A host without Python has nothing of ours yet.
    """
    _account(at, facts)
    stage = at.stage
    for host, told in facts.items():
        if told.get("python"):
            told["rules_of_others"] = "\n".join(_answer(at, host, call(register.rules_of_others, stage.known_as)))
    if stage.provision.redis and facts.get(stage.redis_host.name, {}).get("python"):
        port = _answer(at, stage.redis_host.name, call(redis_port.of_stage, stage.known_as))
        for told in facts.values():
            told["redis_port"] = str(port)


def _account(at: Scene, facts: Facts) -> None:
    here = at.stage
    if here.app_user != naming.account(here.known_as):
        return
    for host in here.hosts:
        if not host.has_releases or not facts.get(host.name, {}).get("python"):
            continue
        user = str(_answer(at, host.name, call(account.of_releases, host.user)))
        if user and user != here.app_user:
            at.stage = replace(here, app_user=user)
            at.tell(Note(f'the services run as {user} here: add app_user = "{user}" to releases.toml', warning=True))
            return


def _answer(at: Scene, host: str, what: Call[object]) -> Any:
    (value,) = must(ask(at.sessions[host], script(what)), host).returned
    return value
