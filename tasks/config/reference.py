"""Writes the reference page and the JSON Schema from the dataclasses, so that neither can say anything else.

`python -m tasks.config.reference --write` after a change of model/config.py; `--check` fails when it was forgotten.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_origin

from ..model.config import Stage
from .load import adapter
from .shape import FAMILIAR, bare, element, fields_of, is_table, words

REFERENCE = "docs/reference/configuration.md"
JSON_SCHEMA = "docs/reference/releases.schema.json"
DEFAULT_STAGE = "The stage of a command without --stage. With several stages and none named here, a command asks."
INTRODUCTION = """\
# releases.toml

Made from the code by `python -m tasks.config.reference --write`. `fab explain KEY` shows a line of it in the terminal.

```toml
default_stage = "production"
application = "pos"
repository = "https://git.example.com/shop/pos.git"
deploy_to = "/var/www/pos"
shared_dirs = ["media"]

[django]
wsgi = "pos.wsgi:application"

[services.web]
kind = "web"

[stages.production]
domain = "pos.example.com"
hosts = [{ name = "web1", address = "203.0.113.10", port = 7822 }]
```

Every key may stand at the top, where it is true of every stage, or in `[stages.NAME]`, where it is true of that stage.
A stage's own keys are laid over those at the top: tables merge, everything else, lists too, replaces.
A file with a mistake is refused as a whole, with the line of every mistake.

`default_stage` (text) stands at the top only: the stage of a command without `--stage`. With several stages and none
named there, a command asks for one.
"""


@dataclass(frozen=True)
class Entry:
    path: str
    """As written below [stages.NAME]: "services.NAME.workers"."""
    kind: str
    """Type and allowed values, in words."""
    default: str
    """As TOML; "" for a key that must be written."""
    meaning: str

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]


def tables() -> Iterator[tuple[str, type]]:
    """Heading -> dataclass, in the order of the page."""
    yield "", Stage
    for name, hint in fields_of(Stage).items():
        kind, _ = bare(hint)
        if is_table(kind):
            yield name, kind
        elif is_table(inner := bare(element(kind))[0]):
            yield (f"{name}[]" if get_origin(kind) is tuple else f"{name}.NAME"), inner


@cache
def entries() -> tuple[Entry, ...]:
    return tuple(entry for heading, kind in tables() for entry in rows(heading, kind))


def rows(heading: str, kind: type) -> Iterator[Entry]:
    defaults = {one.name: one for one in fields(kind)}
    meanings = documented()[kind.__name__]["properties"]
    for name, hint in fields_of(kind).items():
        default = defaults[name].default
        made = "[]" if get_origin(bare(hint)[0]) is tuple else "{}"
        written = "" if default is MISSING else toml(default)
        if defaults[name].default_factory is not MISSING:
            written = made
        meaning = " ".join(meanings[name].get("description", bare(hint)[0].__doc__ or "").split())
        yield Entry(f"{heading}.{name}".lstrip("."), allowed(hint), written, meaning)


def allowed(hint: Any) -> str:
    kind, match = bare(hint)
    _, note = bare(element(kind))
    if note:
        return f"{'a list, each' if get_origin(kind) is tuple else 'a table, each value'} {note.says}"
    return match.says if match else words(kind)


def toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def documented() -> dict[str, Any]:
    """pydantic's schema by class: it reads the docstrings of the fields."""
    whole = adapter().json_schema()
    parts: dict[str, Any] = whole.pop("$defs")
    return parts | {"Stage": whole}


def explain(key: str) -> str:
    """Everything about a key, "port" or "hosts.port" or "stages.production.hosts[0].port", for the terminal."""
    parts = [part for part in key.replace("[", ".").replace("]", "").split(".") if part and not part.isdigit()]
    parts = parts[2:] if parts[:1] == ["stages"] else parts
    wanted = FAMILIAR.get(parts[-1], parts[-1]) if parts else ""
    found = [one for one in entries() if one.key == wanted and one.path.startswith(parts[0] if len(parts) > 1 else "")]
    if wanted == "default_stage":
        return f"default_stage\n  text in quotes\n  {DEFAULT_STAGE}"
    if not found:
        close = difflib.get_close_matches(wanted, {one.key for one in entries()}, 3)
        return f'There is no key "{key}"' + (f"; did you mean {' or '.join(close)}?" if close else ".")
    return "\n\n".join(shown(one) for one in found)


def shown(entry: Entry) -> str:
    default = f"default: {entry.default}" if entry.default else "must be written"
    inside = [
        f"  {one.path}: {one.meaning}"
        for one in entries()
        if one.path.startswith((f"{entry.path}.", f"{entry.path}[]"))
    ]
    return "\n".join([entry.path, f"  {entry.kind}; {default}", f"  {entry.meaning}", *inside])


def reference() -> str:
    """The page, as Markdown."""
    return "\n".join([INTRODUCTION, *(section(heading, kind) for heading, kind in tables())])


def section(heading: str, kind: type) -> str:
    title = f"`[[{heading[:-2]}]]`" if heading.endswith("[]") else f"`[{heading}]`" if heading else "Top-level keys"
    about = " ".join((kind.__doc__ or "").split()) if heading else "Of a stage, or of all."
    body = [f"| `{one.key}` | {cell(one)} | {one.meaning.replace('|', '&#124;')} |" for one in rows(heading, kind)]
    return "\n".join([f"## {title}", "", about, "", "| Key | Value | Meaning |", "| --- | --- | --- |", *body, ""])


def cell(entry: Entry) -> str:
    default = f"default `{entry.default}`" if entry.default else "**must be written**"
    return f"{entry.kind}; {default}".replace("|", "&#124;")


def json_schema() -> str:
    """For editors (Even Better TOML, taplo): each table may be completed by another place, so little is required."""
    parts = documented()
    for kind in {kind.__name__: kind for _, kind in tables()}.values():
        node = parts[kind.__name__]
        node.pop("title", None)
        if kind.__name__ != "Host":
            node.pop("required", None)
        for name, hint in fields_of(kind).items():
            node["properties"][name].pop("title", None)
            limit(node["properties"][name], hint)
    overlay = parts.pop("Stage")
    overlay["properties"].pop("name")
    top = {
        "default_stage": {"type": "string", "description": DEFAULT_STAGE},
        "stages": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/Stage"}},
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "releases.toml",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": top | overlay["properties"],
        "$defs": parts | {"Stage": overlay},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def limit(node: dict[str, Any], hint: Any) -> None:
    """Add what `Match` knows to pydantic's description of a value."""
    kind, match = bare(hint)
    if match and kind is str:
        node["pattern"] = f"^(?:{match.pattern})$"
    inner = element(kind)
    if get_origin(kind) is tuple and not is_table(bare(inner)[0]):
        limit(node["items"], inner)
    elif get_origin(kind) is Mapping and bare(inner)[0] is str:
        limit(node["additionalProperties"], inner)


def main(arguments: list[str], root: Path = Path()) -> int:
    """0 when both files say what the code says, or now do."""
    wanted = {root / REFERENCE: reference(), root / JSON_SCHEMA: json_schema()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    if "--write" in arguments:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        return 0
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
