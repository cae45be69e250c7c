"""What is so on the servers, as aligned text and as plain values: `fab releases`, `fab status`, `fab history`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from ..model.facts import HostFacts, RoleState
from ..model.release import JournalEntry, Release
from ..model.standing import Standing
from . import backups
from .merge import by_value, gathered, in_order, only
from .words import ago, bold, clean, columns, moment, size

_QUIET = ("active", "running", "listening")
"""States of a service that need no look."""


def releases(facts: Sequence[HostFacts], now: datetime, strong: bool = False) -> str:
    """Newest first, `*` is live; hosts are named only where they differ.

    The commit is the end of a release's name; its size in bytes is the fact `more["size ID"]`.
    """
    rows = [_release_row(id, facts, now) for id in _ids(facts)]
    if not rows:
        return "no releases yet\n"
    header = (" ", "release", "state", "built", "ref", "by", "size", "hosts")
    return _page(columns(header, rows, strong), _differences(facts))


def releases_json(facts: Sequence[HostFacts]) -> dict[str, Any]:
    """Per host: what is current and every release, newest first."""
    return {
        "hosts": {
            one.host: {
                "current": one.current,
                "releases": [
                    asdict(release) | {"size": _bytes(one, release.id)}
                    for release in sorted(one.releases, key=lambda release: release.id, reverse=True)
                ],
            }
            for one in facts
        }
    }


@dataclass(frozen=True)
class Beside:
    """What a stage has besides hosts that serve, and hosts that did not answer (with the reason)."""

    roles: Sequence[RoleState] = ()
    away: Mapping[str, str] = field(default_factory=dict)
    backups: Standing | None = None

    @property
    def is_well(self) -> bool:
        return not self.away and all(one.is_well for one in self.roles)


def status(facts: Sequence[HostFacts], now: datetime, strong: bool = False, beside: Beside = Beside()) -> str:
    """What every host serves, its services, and below what somebody should look at."""
    header = ("host", "serves", "live since", "ref", "by", "disk free")
    blocks = [columns(header, [_status_row(one, now) for one in facts], strong)]
    if services := list(_service_rows(facts)):
        blocks.append(columns(("service", "release", "state", "hosts"), services, strong))
    if beside.roles:
        roles = [(one.host, one.role, clean(one.state)) for one in beside.roles]
        blocks.append(columns(("host", "role", "state"), roles, strong))
    if beside.backups:
        blocks.append([f"backups: {clean(beside.backups.line(now))}"])
    if warm := list(_warm(facts)):
        blocks.append(warm)
    if attention := [*_missing(beside), *_differences(facts), *_attention(facts)]:
        blocks.append([bold("look at", strong), *(f"  {line}" for line in attention)])
    return _page(*blocks)


def _missing(beside: Beside) -> Iterator[str]:
    yield from (f"{clean(reason)}" for reason in beside.away.values())
    yield from (clean(f"{one.host}: {one.role}: {one.state}") for one in beside.roles if not one.is_well)


def status_json(facts: Sequence[HostFacts], now: datetime, beside: Beside = Beside()) -> dict[str, Any]:
    """Everything the survey saw, per host, but the journal (`history_json`) and old releases (`releases_json`)."""
    hosts = {}
    for one in facts:
        seen = asdict(one)
        for name in ("host", "journal", "releases"):
            seen.pop(name)
        seen["live"] = asdict(one.live) if one.live else None
        seen["problems"] = [{"problem": problem, "hint": hint} for problem, hint in one.problems]
        hosts[one.host] = seen
    return {
        "hosts": hosts,
        "differ": len({one.current for one in facts}) > 1,
        "roles": [asdict(one) for one in beside.roles],
        "unreachable": dict(beside.away),
        "backups": backups.standing_json(beside.backups, now) if beside.backups else None,
    }


def history(facts: Sequence[HostFacts], now: datetime, limit: int = 20, strong: bool = False) -> str:
    """What happened, newest first; the same line of several hosts is shown once."""
    rows = [_history_row(entry, hosts, facts, now) for entry, hosts in _history(facts)[:limit]]
    if not rows:
        return "nothing happened yet\n"
    return _page(columns(("when", "what", "release", "before", "by", "note", "hosts"), rows, strong))


def history_json(facts: Sequence[HostFacts], limit: int = 20) -> dict[str, Any]:
    """Per host: its journal, newest first."""
    return {
        "hosts": {
            one.host: [asdict(entry) for entry in sorted(one.journal, key=lambda entry: -entry.seq)[:limit]]
            for one in facts
        }
    }


def _page(*blocks: Iterable[str]) -> str:
    return "\n\n".join(text for block in blocks if (text := "\n".join(block))) + "\n"


def _ids(facts: Sequence[HostFacts]) -> list[str]:
    return sorted({release.id for one in facts for release in one.releases}, reverse=True)


def _release_row(id: str, facts: Sequence[HostFacts], now: datetime) -> tuple[str, ...]:
    having = {one.host: release for one in facts if (release := one.release(id))}
    release = next(iter(having.values()))
    states = by_value({host: one.state for host, one in having.items()})
    largest = max((_bytes(one, id) for one in facts), default=-1)
    return (
        "*" if any(one.current == id for one in facts) else " ",
        id,
        _states(states),
        ago(moment(release.at, id), now),
        release.ref,
        release.by,
        size(largest),
        only(tuple(having), [one.host for one in facts]),
    )


def _states(states: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    if len(states) == 1:
        return states[0][0]
    return ", ".join(f"{state} on {' '.join(hosts)}" for state, hosts in states)


def _bytes(facts: HostFacts, id: str) -> int:
    told = facts.more.get(f"size {id}", "")
    return int(told) if told.isdecimal() else -1


def _status_row(one: HostFacts, now: datetime) -> tuple[str, ...]:
    live = one.live or Release(id=one.current, sha="", ref="")
    return (
        one.host,
        {"": "nothing", "!directory": "a directory stands at current"}.get(one.current, one.current),
        ago(_live_since(one), now),
        live.ref,
        live.by,
        size(one.disk_free),
    )


def _live_since(one: HostFacts) -> datetime | None:
    """The last time the journal says it went live; a release's own time is only when it was built."""
    entries = sorted(one.journal, key=lambda entry: entry.seq, reverse=True)
    return next((moment(e.at) for e in entries if e.event == "live" and e.release == one.current), None)


def _service_rows(facts: Sequence[HostFacts]) -> Iterator[tuple[str, ...]]:
    hosts = [one.host for one in facts if one.units]
    units = gathered({one.host: list(one.units.items()) for one in facts})
    for (unit, state), having in units:
        service, _, release = unit.partition("@")
        yield service, release, state, only(having, hosts)


def _warm(facts: Sequence[HostFacts]) -> Iterator[str]:
    for release, hosts in gathered({one.host: one.warm for one in facts}):
        where = only(hosts, [one.host for one in facts])
        yield f"kept warm, ready to come back at once: {clean(release)}{f' on {where}' if where else ''}"


def _differences(facts: Sequence[HostFacts]) -> list[str]:
    serves = by_value({one.host: one.current or "nothing" for one in facts})
    if len(serves) < 2:
        return []
    said = "; ".join(f"{release} on {', '.join(hosts)}" for release, hosts in serves)
    return [f"the hosts differ: {clean(said)}"]


def _attention(facts: Sequence[HostFacts]) -> Iterator[str]:
    """What somebody should look at, once per text, with the hosts where it is so."""
    names = [one.host for one in facts]
    for line, hosts in gathered({one.host: list(_notices(one)) for one in facts}):
        where = only(hosts, names)
        yield f"{where}: {line}" if where else line


def _notices(one: HostFacts) -> Iterator[str]:
    if one.maintenance:
        yield "maintenance: visitors see the maintenance page"
    if one.lock:
        yield f"locked: {clean(one.lock)}"
    if one.freeze:
        yield f"frozen: {clean(one.freeze)}"
    for problem, hint in one.problems:
        yield f"{clean(problem)}{f' ({clean(hint)})' if hint else ''}"
    for unit, state in one.units.items():
        if state not in _QUIET:
            yield f"{clean(unit)} is {clean(state)}"
    if one.undecided and not one.lock:
        yield "current does not lead to the release that was recorded as live (fab repair)"
    if one.leftovers:
        yield f"left by an interrupted run (the next run tidies it): {clean(', '.join(one.leftovers))}"


def _history(facts: Sequence[HostFacts]) -> list[tuple[JournalEntry, tuple[str, ...]]]:
    """Hosts write the same line seconds apart and number it themselves: these do not make it another line."""
    lines = {one.host: [_Line(entry) for entry in sorted(one.journal, key=lambda entry: -entry.seq)] for one in facts}
    return [(line.entry, hosts) for line, hosts in in_order(lines)]


class _Line:
    """A journal entry that equals another host's record of the same thing."""

    def __init__(self, entry: JournalEntry) -> None:
        self.entry = entry
        self._same = (entry.event, entry.release, entry.previous, entry.by, entry.note)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Line) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


def _history_row(
    entry: JournalEntry, hosts: tuple[str, ...], facts: Sequence[HostFacts], now: datetime
) -> tuple[str, ...]:
    when = ago(moment(entry.at), now)
    where = only(hosts, [one.host for one in facts])
    return when, entry.event, entry.release, entry.previous, entry.by, entry.note, where
