"""What may stand where in releases.toml, read off the dataclasses; and what to say about what may not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin, get_type_hints

from ..model.config import Stage
from ..model.typed import Match
from .lines import Key

FAMILIAR = {
    "repo_url": "repository",
    "repo": "repository",
    "deploy_path": "deploy_to",
    "linked_dirs": "shared_dirs",
    "linked_files": "shared_files",
    "shared_paths": "shared_dirs",
    "repo_tree": "sub_directory",
    "servers": "hosts",
    "env": "environment",
    "releases_to_keep": "keep_releases",
}


@dataclass(frozen=True)
class Problem:
    path: Key
    says: str


@cache
def fields_of(kind: type) -> dict[str, Any]:
    """Field -> type, with its `Match`; the name of a stage is its heading, not a key."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint for name, hint in hints.items() if (kind, name) != (Stage, "name")}


def is_table(kind: object) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def bare(hint: Any) -> tuple[Any, Match | None]:
    """A type without its annotation, and the annotation."""
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, Match)), None)


def element(kind: Any) -> Any:
    """The type inside of a list or of a table with free keys; None for everything else."""
    place = {tuple: 0, Mapping: 1}.get(get_origin(kind))
    return None if place is None else get_args(kind)[place]


def at(path: Key) -> Any:
    """The type of what stands at `path` of a stage; None for what no stage has."""
    hint: Any = Stage
    for part in path:
        kind, _ = bare(hint)
        hint = fields_of(kind).get(str(part)) if is_table(kind) else element(kind)
    return bare(hint)[0]


class Unfit(Exception):
    """A value is not of its type; what to say about it is pydantic's to find."""


def fitted(hint: Any, value: Any) -> Any:
    """What pydantic's strict reading would make of it. Unfit where it would find something wrong.

    Importing pydantic and its schema of a Stage takes 0.15 s, as long as connecting to a server does.
    """
    kind, _ = bare(hint)
    origin, inner = get_origin(kind), get_args(kind)
    if is_table(kind) and type(value) is dict:
        hints = get_type_hints(kind, include_extras=True)
        if value.keys() <= hints.keys():
            try:
                return kind(**{name: fitted(hints[name], one) for name, one in value.items()})
            except TypeError:  # something is missing
                raise Unfit from None
    elif origin is Mapping and type(value) is dict:
        return {fitted(inner[0], name): fitted(inner[1], one) for name, one in value.items()}
    elif origin is tuple and type(value) is list:
        return tuple(fitted(inner[0], one) for one in value)
    elif (origin is Literal and type(value) is str and value in inner) or type(value) is kind:
        return value
    raise Unfit


def mismatches(hint: Any, value: object, path: Key = ()) -> Iterator[Problem]:
    """Every text and number that breaks the pattern of its field. Values of a wrong type are pydantic's to report."""
    kind, match = bare(hint)
    if isinstance(value, dict) and is_table(kind):
        known = fields_of(kind)
        for name in known.keys() & value.keys():
            yield from mismatches(known[name], value[name], (*path, name))
    elif isinstance(value, dict) and get_origin(kind) is Mapping:
        key_hint, value_hint = get_args(kind)
        for name, one in value.items():
            yield from mismatches(key_hint, name, (*path, name))
            yield from mismatches(value_hint, one, (*path, name))
    elif isinstance(value, list) and get_origin(kind) is tuple:
        for row, one in enumerate(value):
            yield from mismatches(get_args(kind)[0], one, (*path, row))
    elif match and type(value) is kind and not re.fullmatch(match.pattern, str(value), re.ASCII):
        yield Problem(path, f"must be {match.says}")


def stray(path: Key) -> str:
    """What to say about a key that nobody knows."""
    key, owner = str(path[-1]), at(path[:-1])
    known = fields_of(owner)
    if owner is Stage and key == "name":
        return "unknown key; a stage is named by its heading, [stages.NAME]"
    if FAMILIAR.get(key) in known:
        return f"unknown key; here it is called {FAMILIAR[key]}"
    if owner is not Stage and key in {*fields_of(Stage), "default_stage", *FAMILIAR}:
        return f"unknown key; {FAMILIAR.get(key, key)} belongs above the first [table], or right below [stages.NAME]"
    tables = [name for name, hint in fields_of(Stage).items() if is_table(hint) and key in fields_of(hint)]
    if tables:
        return f"unknown key; it belongs in [{tables[0]}]"
    close = difflib.get_close_matches(key, known, 1)
    return "unknown key" + (f'; did you mean "{close[0]}"?' if close else "")


def words(hint: Any, *, plural: bool = False) -> str:
    """A type in plain words: 'text', 'a list of numbers'."""
    kind, _ = bare(hint)
    if get_origin(kind) is Literal:
        return choices(kind)
    if get_origin(kind) is tuple:
        element = bare(get_args(kind)[0])[0]
        return f"{'lists' if plural else 'a list'} of {words(element, plural=True)}"
    if is_table(kind) or get_origin(kind) is Mapping:
        return "tables" if plural else "a table"
    singular, several = {
        bool: ("true or false", "true or false"),
        int: ("a whole number", "whole numbers"),
        str: ("text in quotes", "texts in quotes"),
    }[kind]
    return several if plural else singular


def choices(kind: Any) -> str:
    *most, last = [f'"{one}"' for one in get_args(kind)]
    return f"{', '.join(most)} or {last}" if most else last


def unfit(path: Key, value: object) -> str:
    """What to say about a value of the wrong type. Never the value itself: it may be a secret."""
    hint = at(path)
    if get_origin(hint) is Literal and isinstance(value, str):
        close = difflib.get_close_matches(value, get_args(hint), 1)
        return f"must be {choices(hint)}" + (f'; did you mean "{close[0]}"?' if close else "")
    return f"must be {words(hint)}, not {named(value)}"


def named(value: object) -> str:
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number with a point",
        str: "text",
        dict: "a table",
        list: "a list",
    }
    return kinds.get(type(value), "a date or time")
