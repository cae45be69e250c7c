"""Which functions of this package a plan may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def exported(function: F) -> F:
    """Mark a function whose first parameter is the Site; no other can be called from outside."""
    setattr(function, "exported", True)  # noqa: B010  (mypy knows no attributes of functions)
    return function


def is_exported(function: object) -> bool:
    return getattr(function, "exported", False) is True


def name_of(function: Callable[..., object]) -> str:
    """ "files.replace": module below this package, and function. ValueError for what is not exported."""
    if not is_exported(function):
        raise ValueError(f"{function.__module__}.{function.__qualname__} is not for calls from outside")
    below = function.__module__.removeprefix(__name__.removesuffix("exported"))
    return f"{below}.{function.__qualname__}"
