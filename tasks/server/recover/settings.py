"""Settings of roles and databases as PostgreSQL keeps them: `name=value`, with lists as one text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LISTS = (
    *("local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries"),
    *("temp_tablespaces", "unix_socket_directories"),
)
"""Their text is a list of quoted names, each of which is said by itself (GUC_LIST_QUOTE in guc_tables.c)."""
APPLY = """
    execute format('alter %s set %I to %s', whom, one ->> 'name',
      (select string_agg(quote_literal(word), ', ') from json_array_elements_text(one -> 'words') word));
"""


def split(entries: Iterable[str]) -> list[dict[str, Any]]:
    """{"name": ..., "words": [...]} of each."""
    found = []
    for entry in entries:
        name, _, value = entry.partition("=")
        found.append({"name": name, "words": _names(value) if name.lower() in LISTS else [value]})
    return found


def _names(value: str) -> list[str]:
    """`"$user", public` -> the names; at least one, since a list that is empty is said as ''."""
    names, rest = [], value.strip()
    while rest:
        if rest.startswith('"'):
            name, rest = _quoted(rest[1:])
            _, _, rest = rest.partition(",")
        else:
            name, _, rest = rest.partition(",")
            name = name.strip()
        names.append(name)
        rest = rest.strip()
    return names or [""]


def _quoted(rest: str) -> tuple[str, str]:
    name = ""
    while True:
        part, quote, rest = rest.partition('"')
        name += part
        if not quote or not rest.startswith('"'):
            return name, rest
        name, rest = name + '"', rest[1:]
