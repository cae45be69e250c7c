"""A file, its text, its owner and its mode; never half written, never through a link, never readable meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable

from .. import files
from ..exported import exported
from ..values.secret import Secret
from ..values.site import Site
from .kept import keep
from .looking import tell, text_of


@exported
def look(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells "OWNER:GROUP MODE" and the text."""
    tell(name, lambda: _whole(path))


@exported
def look_owner(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells "regular file, OWNER:GROUP MODE": what is in it is nobody's business."""
    tell(name, lambda: str(files.entry(path) or ""))


@exported
def look_secret(site: Site, name: str, path: str, text: Secret) -> None:  # noqa: ARG001
    """Tells "OWNER:GROUP MODE", and of the text only whether it is `text`."""

    def compared(there: files.Entry, content: bytes) -> str:
        same = content.rstrip(b"\n") == text.value.encode("utf-8", "surrogateescape").rstrip(b"\n")
        said = "as it should be" if same else "with something else in it"
        return f"{_rights(there)}, {said}"

    tell(name, lambda: _of_regular(path, compared))


@exported
def make(site: Site, path: str, owner: str, group: str, mode: str, text: str | Secret) -> None:  # noqa: ARG001
    """With the folders above it, which are root's where they are missing; `mode` is octal."""
    keep(path)
    _make(path, owner, group, mode, text)


@exported
def make_once(site: Site, path: str, owner: str, group: str, mode: str, text: str | Secret) -> None:  # noqa: ARG001
    """Where a file is already, its text stays: only owner and mode are made so."""
    if files.entry(path) is None:
        _make(path, owner, group, mode, text)
    files.own(path, owner, group, int(mode, 8))


@exported
def make_unless(site: Site, path: str, owner: str, group: str, mode: str, text: str, mark: str) -> None:
    """A file that has `mark` in it stays as it is."""
    if mark not in _of_regular(path, lambda _, content: text_of(content)):
        make(site, path, owner, group, mode, text)


@exported
def look_absent(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells "there" of whatever is."""
    tell(name, lambda: "there" if files.entry(path) else "")


@exported
def make_absent(site: Site, path: str) -> None:  # noqa: ARG001
    keep(path)
    files.remove(path)


@exported
def look_link(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells where it leads."""

    def target() -> str:
        there = files.entry(path)
        return (there.target or there.kind) if there else ""

    tell(name, target)


@exported
def make_link(site: Site, path: str, target: str) -> None:  # noqa: ARG001
    keep(path)
    files.replace_link(path, target)


def _make(path: str, owner: str, group: str, mode: str, text: str | Secret) -> None:
    files.make_folders(os.path.dirname(path), "root", "root", 0o755)
    said = text.value if isinstance(text, Secret) else text
    files.replace(path, said.encode("utf-8", "surrogateescape"), owner, group, int(mode, 8))


def _whole(path: str) -> str:
    there = files.entry(path)
    if there and there.kind == "symbolic link":
        return f"a link to {there.target}"
    return _of_regular(path, lambda there, content: f"{_rights(there)}\n{text_of(content)}")


def _of_regular(path: str, said: Callable[[files.Entry, bytes], str]) -> str:
    """ "" where nothing is. Refused for anything but a regular file."""
    try:
        return said(*files.state(path))
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _rights(there: files.Entry) -> str:
    return f"{there.owner}:{there.group} {there.mode:o}"
