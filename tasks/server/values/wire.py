"""Values as JSON that says what they are, so that the same value comes out at the other end.

JSON's own kinds stand for themselves, except that a list comes back as a tuple. What JSON lacks is an object with the
key "$": {"$": "bytes", "base64": ...}, or the name of a registered dataclass and its fields.
"""

from __future__ import annotations

import base64
import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

TAG = "$"
C = TypeVar("C", bound=type)

_classes: dict[str, type] = {}


def on_the_wire(cls: C) -> C:
    """Register a dataclass under its name; all of its fields travel."""
    if _classes.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"two values are called {cls.__name__}")
    return cls


def dumps(value: object) -> str:
    """One line of ASCII. TypeError for what cannot travel."""
    return json.dumps(_encoded(value), separators=(",", ":"))


def loads(text: str) -> Any:
    """ValueError for what is no JSON, and for a tag or a field that is not known here."""
    return _decoded(json.loads(text))


def _encoded(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {TAG: "bytes", "base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, tuple | list):
        return [_encoded(one) for one in value]
    if isinstance(value, dict):
        if TAG in value or not all(isinstance(name, str) for name in value):
            raise TypeError(f'keys are text, and not "{TAG}"')
        return {name: _encoded(one) for name, one in value.items()}
    if is_dataclass(value) and _classes.get(type(value).__name__) is type(value):
        own = {one.name: _encoded(getattr(value, one.name)) for one in fields(value)}
        return {TAG: type(value).__name__, **own}
    raise TypeError(f"a {type(value).__name__} does not travel")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one) for one in value)
    if not isinstance(value, dict):
        return value
    tag = value.get(TAG)
    given = {name: _decoded(one) for name, one in value.items() if name != TAG}
    if TAG not in value:
        return given
    if tag == "bytes":
        return _bytes(given)
    if not isinstance(tag, str) or tag not in _classes:
        raise ValueError(f"a value of a kind that is not known here: {tag!r}")
    try:
        return _classes[tag](**given)
    except TypeError as error:
        raise ValueError(f"not a {tag}: {error}") from None


def _bytes(given: dict[str, Any]) -> bytes:
    text = given.get("base64")
    if given.keys() != {"base64"} or not isinstance(text, str):
        raise ValueError("not bytes: base64 is wanted, and nothing else")
    return base64.b64decode(text, validate=True)  # binascii.Error is a ValueError
