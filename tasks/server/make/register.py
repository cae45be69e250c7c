"""Which stage has which names of this server, so that none takes another's: a file for each where only root writes."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from .. import files, telling
from ..exported import exported
from ..refused import Refused
from ..values.names import EVERY_NAME
from ..values.site import Site

FOLDER = "/var/lib/fab-releases/stages"
UNITS, OF_THE_SYSTEM = "/etc/systemd/system", "/usr/lib/systemd/system"
HINTS = {
    "account": "app_user",
    "domain": "domain",
    "folder": "deploy_to",
    "port": "REDIS_URL, in the environment file",
    "shared": "[provision] pgbouncer, or hosts",
    "archive": '[backup] engine ("dump")',
}
"""Kind of a hold -> the key of releases.toml by which it is another one; of all others, name_on_servers."""


class Other(NamedTuple):
    """Another stage of this server."""

    path: str
    whose: str
    holds: tuple[str, ...]


SHARED = ("rule",)
"""Kinds that several stages may have."""


@exported
def look(site: Site, name: str, known_as: str, holds: tuple[str, ...]) -> None:
    """Tell what is held by `known_as` so far; each hold is "KIND VALUE". Refused for what another stage has."""
    _no_stranger(site, known_as)
    for other in _others(known_as):
        for mine in holds:
            _apart(mine, other)
    telling.found(name, "\n".join(_held(known_as)))


@exported
def make(site: Site, known_as: str, holds: tuple[str, ...]) -> None:
    """Write down what `known_as` holds."""
    text = json.dumps(
        {"application": site.application, "stage": site.stage, "name_on_servers": known_as, "holds": holds}, indent=1
    )
    files.make_folders(FOLDER, "root", "root", 0o755)
    files.replace(f"{FOLDER}/{known_as}.json", f"{text}\n".encode(), "root", "root", 0o644)


@exported
def rules_of_others(site: Site, known_as: str) -> tuple[str, ...]:  # noqa: ARG001
    """Rules of the firewall that other stages of this server need."""
    holds = (one for other in _others(known_as) for one in other.holds)
    return tuple(sorted({one.removeprefix("rule ") for one in holds if one.startswith("rule ")}))


def _held(known_as: str) -> list[str]:
    try:
        return [str(one) for one in json.loads(files.read(f"{FOLDER}/{known_as}.json"))["holds"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, KeyError, TypeError):
        return ["a file that cannot be read"]


def _others(known_as: str) -> list[Other]:
    """What the files of other stages say; one that cannot be read is named, for it may hold anything."""
    try:
        names = sorted(os.listdir(FOLDER))
    except FileNotFoundError:
        return []
    return [_read(f"{FOLDER}/{name}") for name in names if name.endswith(".json") and name != f"{known_as}.json"]


def _read(path: str) -> Other:
    try:
        told = json.loads(files.read(path))
        whose = f"{told['application']}, stage {told['stage']}"
        return Other(path, whose, tuple(str(one) for one in told["holds"]))
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{path} does not say what its stage has", "fab provision of that stage writes it") from None


def _apart(mine: str, other: Other) -> None:
    """Refused for what both have; an account that both were told to use is only warned of."""
    kind, _, value = mine.partition(" ")
    for its in other.holds:
        its_kind, _, its_value = its.partition(" ")
        if not _clash(kind, value, its_kind, its_value):
            continue
        if kind == "account":
            telling.warn(f"account {value} is also that of {other.whose}: they are not separated; set app_user for one")
            continue
        what = mine if mine == its else f"{mine} beside {its}"
        gone = f"if that stage is no longer on this server: rm {other.path}"
        raise Refused(f"{what} belongs to {other.whose}", f"set another {HINTS.get(kind, 'name_on_servers')}; {gone}")


def _clash(kind: str, value: str, its_kind: str, its_value: str) -> bool:
    if kind == "folder" == its_kind:
        return f"{value}/".startswith(f"{its_value}/") or f"{its_value}/".startswith(f"{value}/")
    if kind == "domain" == its_kind:
        return value == its_value or EVERY_NAME in (value, its_value)
    if kind == "shared" == its_kind:  # one file for all: what it says of the first word must be the same
        return value.partition(":")[0] == its_value.partition(":")[0] and value != its_value
    return kind not in SHARED and (kind, value) == (its_kind, its_value)


def _no_stranger(site: Site, known_as: str) -> None:
    """Of those who were here before this was written down: a unit says which folder it is for."""
    if os.path.lexists(f"{OF_THE_SYSTEM}/{known_as}.service"):
        raise Refused(f"{known_as}.service is a unit of the system", "set name_on_servers in releases.toml")
    own = _folder_of(known_as)
    if own and own != site.deploy_to:
        raise Refused(f"{known_as} is what the releases in {own} are called here", "set name_on_servers, or deploy_to")
    if known_as != site.application and not own and _folder_of(site.application) == site.deploy_to:
        raise Refused(
            f"what is in {site.deploy_to} is called {site.application} on this server, not {known_as}",
            f'add name_on_servers = "{site.application}" to [stages.{site.stage}] in releases.toml',
        )


def _folder_of(known_as: str) -> str:
    """Where the releases are that this unit starts at boot; "" where there is no such unit of ours."""
    try:
        text = files.read(f"{UNITS}/{known_as}.service").decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    found = re.search(r"readlink -f (\S+)/current\)", text)
    return found[1] if found else ""
