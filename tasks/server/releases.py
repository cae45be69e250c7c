"""Which release is live, where `current` does not say so, and whether a release is all there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from . import files, journal, telling
from .exported import exported
from .refused import Refused
from .values.site import Site

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{7}")
RECORD = "release.json"


@exported
def settle(site: Site, running: str, serving: str) -> None:
    """Print the release that is live, or that was before somebody, or a bad disk, took `current` away; nothing where
    none ever was. Refused where nobody can tell and services run: they are left to their users.

    `running`: releases of which services run, in words. `serving`: the one that `current` leads to, where it answers.
    A damaged release.json of a release that is all there otherwise is written again.
    """
    known, ids = journal.read(site), release_ids(site)
    linked, target = _linked(site)
    live = serving or (linked if linked in ids and is_usable(site, linked) else _chosen(site, known, ids, running))
    for id in ids:
        if read_record(site, id) is None and is_usable(site, id):
            _write_record(site, id, "live" if id == live else "retired" if id in known.lives else "bad")
            telling.warn(f"release.json of {id} could not be read: written again")
    if serving and (gone := missing(site, serving)):
        telling.warn(f"release {serving} is not complete ({', '.join(gone)}), but it answers: it stays live")
    elif live and live != linked:
        why = f"current led to {target}" if target else "current was gone"
        telling.warn(f"{why}: put back to {live}, which was live before")
    print(live, flush=True)


@exported
def refuse_incomplete(site: Site, id: str) -> None:
    """Refused where a release is not all there."""
    if gone := missing(site, id):
        raise Refused(
            f"release {id} is not complete: {', '.join(gone)}",
            "choose another one (fab releases), or `fab deploy --ref COMMIT` builds it again",
        )


def release_ids(site: Site) -> tuple[str, ...]:
    try:
        names = os.listdir(f"{site.deploy_to}/releases")
    except FileNotFoundError:
        return ()
    return tuple(sorted(name for name in names if ID.fullmatch(name)))


def missing(site: Site, id: str) -> list[str]:
    """What it lacks, in words; [] for a release that is all there."""
    folder = _folder(site, id)
    if not os.path.isdir(folder):
        return ["its folder is gone"]
    gone = [f"no {name} that can be read" for name in (RECORD, ".release/services.json") if _json(folder, name) is None]
    if not os.access(f"{folder}/.venv/bin/python", os.X_OK):
        gone.append("no .venv/bin/python")
    wanted, there = (read_record(site, id) or {}).get("files", 0), _count(folder)
    if isinstance(wanted, int) and there < wanted:
        gone.append("a file is missing" if wanted - there == 1 else f"{wanted - there} files are missing")
    return gone


def is_usable(site: Site, id: str) -> bool:
    """All there but, perhaps, for its release.json, which can be written again."""
    return all(what.startswith(f"no {RECORD}") for what in missing(site, id))


def read_record(site: Site, id: str) -> dict[str, Any] | None:
    """What its release.json says; None where it cannot be read, or is another release's."""
    record = _json(_folder(site, id), RECORD)
    return record if record and record.get("id") == id and record.get("state") else None


def _chosen(site: Site, known: journal.Journal, ids: tuple[str, ...], running: str) -> str:
    """By the journal; where that does not say, by the releases' own states; where neither does, by what runs."""
    states = {id: (read_record(site, id) or {}).get("state") for id in ids}
    marked = [id for id, state in states.items() if state == "live"]
    runs = [id for id in running.split() if id in ids]
    live = known.live
    if (live is None or not known.is_certain) and len(marked) == 1:
        live = marked[0]
    if live is None and len(runs) == 1 and is_usable(site, runs[0]) and states[runs[0]] in (None, "live", "retired"):
        live = runs[0]
    if live is None:
        if runs and (marked or not all(states[id] == "ready" for id in ids)):
            raise _unknown(site, runs)
        return ""
    if live == "":
        return ""
    for id in dict.fromkeys((live, *known.lives)):
        if id in ids and (id == live or states[id] != "bad") and is_usable(site, id):
            return id
    if runs:
        raise _unknown(site, runs)
    return ""


def _unknown(site: Site, runs: list[str]) -> Refused:
    return Refused(
        f"it is not known which release was live: current does not lead to one, and {', '.join(sorted(runs))} run; "
        "nothing was changed",
        f"in {site.deploy_to}: ln -sfnT releases/ID current, with the one that users should have; then fab repair",
    )


def _linked(site: Site) -> tuple[str, str]:
    """(release that `current` leads to, what is written in the link); "" for none."""
    try:
        target = os.readlink(f"{site.deploy_to}/current")
    except OSError:
        return "", ""
    above, name = os.path.split(os.path.join(site.deploy_to, target.rstrip("/")))
    inside = os.path.realpath(above) == os.path.realpath(f"{site.deploy_to}/releases")
    return (name if inside and ID.fullmatch(name) else ""), target


def _write_record(site: Site, id: str, state: str) -> None:
    """What can be known of it without its release.json."""
    folder = _folder(site, id)
    there = files.entry(folder)
    assert there
    told = {name: _word(f"{folder}/.release/{name}.key") for name in ("lock", "static", "migrations")}
    told.update(python=_word(f"{folder}/.release/python"))
    record = {"id": id, "sha": _sha(site, id), "ref": "", **told, "files": _count(folder), "state": state}
    files.replace(f"{folder}/{RECORD}", json.dumps(record).encode(), there.owner, there.group, 0o644)


def _sha(site: Site, id: str) -> str:
    """The whole one, where the mirror has it; its id has seven letters."""
    words = ["git", "-C", f"{site.deploy_to}/repo.git", "rev-parse", "--verify", "--quiet", f"{id[-7:]}^{{commit}}"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _word(path: str) -> str:
    try:
        return files.read(path, 4096).decode("utf-8", "replace").strip()
    except (OSError, Refused):
        return ""


def _json(folder: str, name: str) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read(f"{folder}/{name}", 1 << 20))
    except (OSError, ValueError, Refused):
        return None
    return found if isinstance(found, dict) else None


def _count(folder: str) -> int:
    """As it was counted when it was built: regular files, without those of its environment."""
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".venv"]
        count += sum(1 for name in names if name != RECORD and not os.path.islink(os.path.join(place, name)))
    return count


def _folder(site: Site, id: str) -> str:
    return f"{site.deploy_to}/releases/{id}"
