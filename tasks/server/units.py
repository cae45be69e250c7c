"""Whose a unit file is: two applications may come to the same name, `shop` with admin-web and `shop-admin` with web."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from . import files, telling
from .exported import exported
from .refused import Refused
from .values.site import Site

OURS = re.compile(r"(/[^\s\"']+)/(?:releases/%i|current)/\.release/|readlink -f (/[^\s\"')]+)/current\b")
"""What a unit of ours starts lies in the folder of its application."""


@exported
def look_others(site: Site, name: str, paths: tuple[str, ...]) -> None:
    """Tell, as the thing `name`, which of these unit files belong to another application that is still there."""
    telling.found(name, "\n".join(_others(site, paths)))


@exported
def refuse_others(site: Site, paths: tuple[str, ...]) -> None:
    """Refused where there is one."""
    if found := _others(site, paths):
        raise Refused(f"{'; '.join(found)}: nothing was changed", "give the application, or that service, another name")


def _others(site: Site, paths: tuple[str, ...]) -> list[str]:
    found = []
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            match = OURS.search(files.read(path, 1 << 20).decode("utf-8", "replace"))
            owner = match and (match[1] or match[2])
            if owner and owner != site.deploy_to and os.path.isdir(owner):
                found.append(f"{path} belongs to the application in {owner}")
    return found
