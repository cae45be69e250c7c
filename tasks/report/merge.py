"""Hosts mostly agree: what several of them have in common is shown once, with their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def in_order(sequences: Mapping[str, Sequence[Item]]) -> list[tuple[Item, tuple[str, ...]]]:
    """All items once with the hosts that have them; each host's own order is kept."""
    merged: list[tuple[Item, tuple[str, ...]]] = []
    for host, items in sequences.items():
        at = 0
        for item in items:
            found = next((index for index in range(at, len(merged)) if merged[index][0] == item), None)
            if found is None:
                merged.insert(at, (item, (host,)))
                at += 1
            else:
                merged[found] = (item, (*merged[found][1], host))
                at = found + 1
    return merged


def gathered(sequences: Mapping[str, Sequence[Item]]) -> list[tuple[Item, tuple[str, ...]]]:
    """All items once with the hosts that have them, in the order they are first seen."""
    merged: dict[Item, tuple[str, ...]] = {}
    for host, items in sequences.items():
        for item in items:
            merged[item] = (*merged.get(item, ()), host)
    return list(merged.items())


def by_value(values: Mapping[str, Item]) -> list[tuple[Item, tuple[str, ...]]]:
    """Each value once with the hosts that have it."""
    return gathered({host: (value,) for host, value in values.items()})


def only(hosts: Sequence[str], of: Sequence[str]) -> str:
    """The hosts' names where they are not all of them; "" where they are."""
    return "" if set(hosts) >= set(of) else ", ".join(hosts)
