"""Look at a host, change nothing; what it says becomes HostFacts."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.config import Stage, megabytes
from ..model.facts import HostFacts
from ..model.release import JournalEntry, Release
from ..model.shell import Script, script


def survey(stage: Stage) -> Script:
    files = list(dict.fromkeys([*stage.shared_files, *([stage.environment.file] if stage.environment.file else [])]))
    return script(("survey", megabytes(stage.minimum_free), *files))


def sizes() -> Script:
    return script(("sizes",))


def parse(host: str, marks: Iterable[tuple[str, ...]]) -> HostFacts:
    """(kind, word, ...) as a session heard them. A release or journal line that is no JSON counts as a leftover."""
    facts: dict[str, str] = {}
    releases: list[Release] = []
    journal: list[JournalEntry] = []
    units: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    leftovers: list[str] = []
    warm: list[str] = []
    incomplete: list[str] = []
    for mark in marks:
        match mark:
            case ("fact", name, value):
                facts[name] = value
            case ("release", text):
                _read(text, releases, Release.from_json, leftovers)
            case ("journal", text):
                _read(text, journal, JournalEntry.from_json, leftovers)
            case ("unit", name, state, *_):
                units[name] = state
            case ("problem", what, hint):
                problems.append((what, hint))
            case ("warm", id):
                warm.append(id)
            case ("incomplete", id):
                incomplete.append(id)
            case ("leftover", what):
                leftovers.append(what)
            case ("size", id, kilobytes):
                facts[f"size {id}"] = str(int(kilobytes) * 1024)
    known = {"current", "lock", "freeze", "disk_free", "inodes_free", "maintenance"}
    return HostFacts(
        host=host,
        current=facts.get("current", ""),
        releases=tuple(releases),
        journal=tuple(journal),
        leftovers=tuple(leftovers),
        units=units,
        warm=tuple(warm),
        incomplete=tuple(incomplete),
        lock=facts.get("lock", ""),
        freeze=facts.get("freeze", ""),
        problems=tuple(problems),
        disk_free=_number(facts.get("disk_free", "")),
        inodes_free=_number(facts.get("inodes_free", "")),
        maintenance=facts.get("maintenance") == "on",
        more={name: value for name, value in facts.items() if name not in known},
    )


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def _read(text, into, read, leftovers) -> None:  # type: ignore[no-untyped-def]
    try:
        into.append(read(text))
    except (ValueError, TypeError):
        leftovers.append(f"unreadable: {text[:80]}")
