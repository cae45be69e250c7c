"""Lines of ours in a file that is the distribution's or somebody else's, who keeps owner, mode and everything else."""

from __future__ import annotations

from .. import files
from ..exported import exported
from ..values.site import Site
from .kept import keep
from .looking import tell, text_of

BEGINS = "# fab-releases: what follows is written by it"
ENDS = "# fab-releases: until here"


@exported
def look_last(site: Site, name: str, path: str, line: str) -> None:  # noqa: ARG001
    """Tells `line` where the file has it."""
    tell(name, lambda: line if line in _lines(path) else "")


@exported
def make_last(site: Site, path: str, line: str) -> None:  # noqa: ARG001
    """At the end, for what is said later wins; a file that has it already stays as it is."""
    keep(path)
    there, content = files.state(path)
    if line not in text_of(content).splitlines():
        _write(path, there, f"{text_of(content)}\n{line}\n")


@exported
def look_block(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells our lines."""
    tell(name, lambda: "\n".join(_split(_lines(path))[1]))


@exported
def make_block(site: Site, path: str, text: str) -> None:  # noqa: ARG001
    """`text` instead of the lines that were ours, at the end."""
    keep(path)
    there, content = files.state(path)
    others, _ = _split(text_of(content).splitlines())
    _write(path, there, "\n".join([*others, BEGINS, text, ENDS, ""]))


def _lines(path: str) -> list[str]:
    try:
        return text_of(files.read(path)).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """(those of others, ours without what encloses them)."""
    others: list[str] = []
    ours: list[str] = []
    inside = False
    for line in lines:
        if line == BEGINS:
            inside = True
        elif inside and line == ENDS:
            inside = False
        else:
            (ours if inside else others).append(line)
    while others and not others[-1]:
        others.pop()
    return others, ours


def _write(path: str, there: files.Entry, text: str) -> None:
    files.replace(path, text.encode("utf-8", "surrogateescape"), there.owner, there.group, there.mode & 0o777)
