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
def look_block(site: Site, name: str, path: str, whose: str) -> None:  # noqa: ARG001
    """Tells our lines."""
    tell(name, lambda: "\n".join(_split(_lines(path), whose)[1]))


@exported
def make_block(site: Site, path: str, text: str, whose: str) -> None:  # noqa: ARG001
    """`text` instead of the lines that were ours, at the end."""
    keep(path)
    there, content = files.state(path)
    others, _ = _split(text_of(content).splitlines(), whose)
    _write(path, there, "\n".join([*others, _begins(whose), text, ENDS, ""]))


def _lines(path: str) -> list[str]:
    try:
        return text_of(files.read(path)).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _begins(whose: str) -> str:
    return f"{BEGINS}, for {whose}"


def _split(lines: list[str], whose: str) -> tuple[list[str], list[str]]:
    """(those of others, ours without what encloses them).

    A block that does not say whose it is, and names us, is neither: it was written before they did.
    """
    others: list[str] = []
    ours: list[str] = []
    block: list[str] | None = None
    for line in lines:
        if block is None and line.startswith(BEGINS):
            block = [line]
        elif block is None:
            others.append(line)
        elif line != ENDS:
            block.append(line)
        else:
            if block[0] == _begins(whose):
                ours += block[1:]
            elif block[0] != BEGINS or not any(f'"{whose}' in one for one in block):
                others += [*block, line]
            block = None
    others += block or []
    while others and not others[-1]:
        others.pop()
    return others, ours


def _write(path: str, there: files.Entry, text: str) -> None:
    files.replace(path, text.encode("utf-8", "surrogateescape"), there.owner, there.group, there.mode & 0o777)
