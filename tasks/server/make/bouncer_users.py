"""Users of pgBouncer: what the database keeps of their passwords, a line each, beside those of other stages."""

from __future__ import annotations

from .. import files, postgres
from ..exported import exported
from ..refused import Refused
from ..values.site import Site
from .kept import keep
from .looking import tell, text_of

WANTED = "postgres:postgres 640, as the database has it"
ASKED = "select format('\"%s\" \"%s\"', rolname, rolpassword) from pg_authid where rolname = :'role';\n"


@exported
def look(site: Site, name: str, path: str, role: str) -> None:  # noqa: ARG001
    """Tells `WANTED`, or what it is instead; "" where nobody of this name is."""

    def told() -> str:
        there = files.entry(path)
        own = _split(path, role)[1]
        if not there or not own:
            return ""
        rights = f"{there.owner}:{there.group} {there.mode:o}"
        return f"{rights}, {'as the database has it' if own == [_line(role)] else 'with another password'}"

    tell(name, told)


@exported
def make(site: Site, path: str, role: str) -> None:  # noqa: ARG001
    """The line of `role` alone is written anew."""
    keep(path)
    others, _ = _split(path, role)
    text = "\n".join([*others, _line(role), ""])
    files.replace(path, text.encode("utf-8", "surrogateescape"), "postgres", "postgres", 0o640)


def _split(path: str, role: str) -> tuple[list[str], list[str]]:
    """(lines of others, ours)."""
    try:
        lines = text_of(files.read(path)).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    ours = [line for line in lines if line.startswith(f'"{role}" ')]
    return [line for line in lines if line not in ours], ours


def _line(role: str) -> str:
    """It goes through pipes alone: no process shows it."""
    line = postgres.superuser(ASKED, role=role).strip()
    if not line:
        raise Refused(f"PostgreSQL has no role {role}", "fab provision makes it; is it the database's host?")
    return line
