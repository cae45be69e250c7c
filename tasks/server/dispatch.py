"""Carries out the calls that arrive on standard input, in order, until one fails.

The first line is the session's nonce, the second the Site; then a line for each function named in the arguments:
{"arguments": {...}, "account": ""}. All of them are understood before the first one runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, TextIO

from . import accounts, telling
from .exported import is_exported
from .refused import Refused
from .values import secret, site, wire  # noqa: F401  (secret is registered by being imported)

NAME = re.compile(r"[a-z_]+(\.[a-z_]+)+")
Ready = tuple[Callable[..., object], "inspect.BoundArguments", str]


def serve(names: list[str], lines: TextIO) -> int:
    """The exit status: 0 when every call was carried out, 1 when one was refused or failed (told as an error)."""
    telling.begin(lines.readline().rstrip("\n"))
    try:
        for function, given, account in _understood(names, lines):
            telling.returned(_carried_out(function, given, account))
    except Refused as no:
        telling.error(no.message, no.hint)
        return 1
    except OSError as error:
        place = " ".join(str(one) for one in (error.filename, error.filename2) if one)
        telling.error(f"{place}: {error.strerror or error}" if place else str(error.strerror or error))
        return 1
    return 0


def _understood(names: list[str], lines: TextIO) -> list[Ready]:
    """Refused for a function, an argument or a value that is not known here."""
    try:
        here = wire.loads(lines.readline())
        given = [wire.loads(lines.readline()) for _ in names]
    except ValueError as error:
        raise Refused(f"a call that cannot be read: {error}", "are both sides of one version?") from None
    if not isinstance(here, site.Site):
        raise Refused("a call without its site", "are both sides of one version?")
    ready = []
    for name, call in zip(names, given, strict=True):
        function = _function(name)
        try:
            bound = inspect.signature(function).bind(here, **call["arguments"])
        except (TypeError, KeyError) as error:
            raise Refused(f"{name} cannot be called so: {error}", "are both sides of one version?") from None
        ready.append((function, bound, str(call.get("account", ""))))
    return ready


def _function(name: str) -> Callable[..., object]:
    found: Any = None
    if NAME.fullmatch(name):
        module, _, last = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(f".{module}", __package__), last, None)
        except ModuleNotFoundError:
            found = None
    if not is_exported(found):
        raise Refused(f"there is no function {name} on this side", "are both sides of one version?")
    function: Callable[..., object] = found
    return function


def _carried_out(function: Callable[..., object], given: inspect.BoundArguments, account: str) -> object:
    if not account:
        return function(*given.args, **given.kwargs)
    return accounts.run_as(account, lambda: function(*given.args, **given.kwargs))
