"""Reads releases.toml: every stage whole and checked, or everything that is wrong with the file at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model import naming
from ..model.config import Stage
from ..model.errors import UsageError
from .check import agreement, anchored, apart, rehearsing
from .lines import Key, lines, nearest
from .passwords import passwords
from .shape import Problem, Unfit, at, fields_of, fitted, mismatches, stray, unfit

if TYPE_CHECKING:
    from pydantic import TypeAdapter

HINT = "`fab explain KEY` explains a key; docs/reference/configuration.md has them all."


@dataclass(frozen=True)
class Config:
    default_stage: str
    """Used without --stage; "" when several stages exist and none was chosen."""
    stages: Mapping[str, Stage]


def load(path: Path) -> Config:
    """Every stage of the file, its relative folders made absolute.

    A stage whose types are wrong is not checked for agreement between its keys: what it means is not known yet.
    Raises UsageError with one line per mistake, in the order of the file.
    """
    text = read(path)
    raw = parse(path, text)
    problems, stages = list(headings(raw)), {}
    for name, table in tables(raw).items():
        stage, wrong = build(name, merge({key: raw[key] for key in raw.keys() - {"stages", "default_stage"}}, table))
        if stage:
            stages[name] = anchored(rehearsing(named(stage, written_in(raw, table))), path.absolute().parent)
            wrong += [one for one in agreement(stages[name]) if one.path not in {known.path for known in wrong}]
        problems += [Problem(written(raw, name, one.path), one.says) for one in wrong]
    problems += [Problem(written(raw, name, one.path), one.says) for name, one in apart(stages)]
    if problems:
        raise UsageError("\n".join(listed(path, shared(problems, raw), lines(text))), HINT)
    return Config(raw.get("default_stage", "" if len(stages) > 1 else next(iter(stages))), stages)


def stage(config: Config, name: str = "") -> Stage:
    """The named stage, or the default one. Raises UsageError."""
    wanted = name or config.default_stage
    if wanted in config.stages:
        return config.stages[wanted]
    there = f"releases.toml has {', '.join(config.stages)}."
    if not wanted:
        raise UsageError("Which stage?", f"Say --stage, or set default_stage: {there}")
    close = get_close_matches(wanted, config.stages, 1)
    raise UsageError(f'There is no stage "{wanted}".', f'Did you mean "{close[0]}"?' if close else there)


def read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path} is not here.", "`fab init` writes one for the project in this folder.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", "Save the file as UTF-8.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        says, line = re.sub(r" \(at .*\)$", "", str(error)), re.search(r"\(at line (\d+)", str(error))
        number = int(line[1]) if line else text.rstrip().count("\n") + 1
        hint = "Text stands in quotes, true and false do not; a [table] is written once."
        raise UsageError(f"{path}:{number}: not TOML: {says[:1].lower()}{says[1:]}", hint) from None
    except (RecursionError, ValueError):
        raise UsageError(f"{path}: not TOML that can be read: nested too deeply, or a number is too long.") from None


def headings(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong around the stages."""
    found, default = raw.get("stages"), raw.get("default_stage")
    if not isinstance(found, dict) or not found:
        yield Problem(("stages",), "missing: at least one stage, as [stages.production]")
        return
    for name, table in found.items():
        if not isinstance(table, dict):
            yield Problem(("stages", name), "must be a table, as [stages.production]")
        yield from (Problem(("stages", name), one.says) for one in mismatches(NAME, name))
    if "recover" in raw:
        yield Problem(("recover",), "belongs to one stage, as [stages.staging.recover]: no other may be without beat")
    if default is not None and (not isinstance(default, str) or default not in found):
        yield Problem(("default_stage",), f"must be one of the stages: {', '.join(found)}")


NAME = fields_of(Stage)["application"]


def tables(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = raw.get("stages")
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge; everything else, lists too, replaces."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


@cache
def adapter() -> TypeAdapter[Stage]:
    """Only for what is wrong, and for the pages: pydantic takes 0.15 s."""
    from pydantic import TypeAdapter

    return TypeAdapter(Stage)


def build(name: str, merged: dict[str, Any]) -> tuple[Stage | None, list[Problem]]:
    """A stage, or what keeps it from being one. A date becomes null, which no key accepts."""
    secret = list(passwords(merged))
    problems = secret + [one for one in mismatches(Stage, merged) if one.path not in {known.path for known in secret}]
    if "name" in merged:
        problems.append(Problem(("name",), stray(("name",))))
    with suppress(Unfit):
        return fitted(Stage, merged | {"name": name}), problems
    from pydantic import ValidationError

    text = json.dumps(merged | {"name": name}, default=lambda _date: None)
    try:
        return adapter().validate_json(text, strict=True), problems
    except ValidationError as error:
        return None, problems + [problem(one["type"], tuple(one["loc"]), merged) for one in error.errors()]


def written_in(*tables: Mapping[str, Any]) -> set[str]:
    """Keys that one of these gives a value."""
    return {key for table in tables for key, value in table.items() if value}


def named(stage: Stage, keys: Collection[str]) -> Stage:
    """`keys` are those that the file has: what it does not say follows from application and stage."""
    if stage.manager != "systemd":
        return stage
    name = stage.name_on_servers if "name_on_servers" in keys else naming.on_servers(stage.application, stage.name)
    user = stage.app_user if "app_user" in keys else naming.account(name)
    return replace(stage, name_on_servers=name, app_user=user)


def problem(kind: str, path: Key, merged: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors in our words."""
    if kind == "missing":
        return Problem(path, "missing")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return Problem(path, stray(path))
    value, depth = follow(merged, path)
    if not path or at(path) is None or depth < len(path):
        return Problem(path, "cannot be read; it may be nested too deeply")
    return Problem(path, unfit(path, value))


def follow(value: Any, path: Key) -> tuple[Any, int]:
    """What is written at `path`, and how many of its parts exist."""
    for depth, part in enumerate(path):
        parts = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        if part not in parts:
            return value, depth
        value = value[part]
    return value, len(path)


def written(raw: Mapping[str, Any], name: str, path: Key) -> Key:
    """Where a stage's key comes from: its own table, or the top of the file."""
    own, top = follow(raw["stages"][name], path)[1], follow(raw, path)[1]
    return path if top > own else ("stages", name, *path)


def shared(problems: list[Problem], raw: Mapping[str, Any]) -> list[Problem]:
    """Each problem once; a key that every one of several stages lacks is said once, for all of them."""
    absent = {
        one: one.path[2] for one in problems if one.says == "missing" and one.path[::2] == ("stages", one.path[-1])
    }
    count = Counter(absent[one] for one in problems if one in absent)
    everywhere = {one for one, key in absent.items() if count[key] == len(tables(raw)) > 1}
    replaced = (
        Problem(one.path[2:], "missing, at the top or in every stage") if one in everywhere else one for one in problems
    )
    return list(dict.fromkeys(replaced))


def listed(path: Path, problems: list[Problem], known: Mapping[Key, int]) -> list[str]:
    """One line per problem, in the order of the file."""
    ordered = sorted((nearest(known, one.path), dotted(one.path), one.says) for one in problems)
    return [f"{path}:{line}: {key}: {says}" for line, key, says in ordered]


def dotted(path: Key) -> str:
    """hosts[0].port, as TOML would write it."""
    parts = (
        f"[{part}]"
        if isinstance(part, int)
        else f".{part if re.fullmatch(r'[A-Za-z0-9_-]+', part) else json.dumps(part)}"
        for part in path
    )
    return "".join(parts).removeprefix(".")
