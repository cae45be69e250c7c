"""A step as it is said: which function of tasks/server, with which arguments, as whom."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ..server.exported import name_of
from ..server.values import wire
from ..server.values.site import Site

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


@dataclass(frozen=True)
class Call(Generic[R]):
    """Made by `call`; R is what the function gives back."""

    function: str
    """"files.replace": a module below tasks/server, and a function in it."""
    arguments: Mapping[str, Any]
    account: str = ""
    """Who does it; "" for the account of the session. Another one is reached from root's only."""

    def by(self, account: str) -> Call[R]:
        """The same, done as that account."""
        return replace(self, account=account)

    def line(self) -> str:
        """As it goes over the wire."""
        return wire.dumps({"arguments": dict(self.arguments), "account": self.account})


def call(function: Callable[Concatenate[Site, P], R], /, *words: P.args, **named: P.kwargs) -> Call[R]:
    """Name a function of tasks/server with its arguments; the Site is given by the session.

    ValueError for a function that is not exported, TypeError for arguments it does not take.
    """
    given = inspect.signature(function).bind(None, *words, **named)
    first, *_ = given.arguments
    arguments = {name: value for name, value in given.arguments.items() if name != first}
    return Call(name_of(function), arguments)
