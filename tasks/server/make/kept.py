"""What a part of provisioning replaces is kept as it was until the part is done, and put back where it fails.

The folder is root's alone and named by the session (templates/provision/parts.sh), which keeps there what it replaces
itself: a path lies in it under its own name, or is a folder with `.absent` where nothing was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .. import files, telling
from ..exported import exported
from ..refused import Refused
from ..values.site import Site

FOLDER = "FAB_RELEASES_KEPT"
ABSENT = ".absent"
LARGEST = 256 << 20
"""Bytes of a file that is kept."""


def keep(path: str) -> None:
    """As it is now; the first time counts. Nothing outside a part. Refused for what is neither file nor link."""
    folder = os.environ.get(FOLDER, "")
    to = folder + path
    if folder and not os.path.lexists(to):
        store(to, path)


def store(to: str, path: str) -> None:
    """What is at `path` now lies at `to` afterwards, below a folder of root's alone. Refused as by `keep`."""
    os.makedirs(os.path.dirname(to), exist_ok=True)
    there = files.entry(path)
    if there is None:
        os.mkdir(to)
        files.replace(f"{to}/{ABSENT}", b"", "root", "root", 0o600)
    elif there.kind == "symbolic link":
        os.symlink(there.target, to)
    else:
        there, content = files.state(path, LARGEST)
        files.replace(to, content, there.owner, there.group, there.mode & 0o777)


@exported
def put_back(site: Site) -> None:  # noqa: ARG001
    """Everything, as it was; what cannot be is named, and the others are put back all the same."""
    folder = os.environ[FOLDER]
    for kept in _kept(folder):
        path = kept.removeprefix(folder)
        try:
            restore(kept, path)
        except Refused as no:
            telling.warn(f"not put back: {no.message}")
        except OSError as error:
            telling.warn(f"not put back: {path}: {error.strerror}")


def _kept(folder: str) -> Iterator[str]:
    for place, below, names in os.walk(folder):
        links = [name for name in below if os.path.islink(f"{place}/{name}")]
        yield from (f"{place}/{name}" for name in (*names, *links))


def restore(kept: str, path: str) -> None:
    """What `store` made of it, or its mark of nothing, is at `path` again."""
    if os.path.basename(path) == ABSENT:
        files.remove(os.path.dirname(path))
    elif os.path.islink(kept):
        files.replace_link(path, os.readlink(kept))
    else:
        there, content = files.state(kept, LARGEST)
        files.replace(path, content, there.owner, there.group, there.mode)
