"""The server library: the bash functions every script calls, and the programs every release carries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..model.config import Host, Stage
from ..model.shell import Word, quoted

PACKAGE = Path(__file__).resolve().parent.parent
LEASE_SECONDS = 12


@cache
def templates() -> Path:
    """`templates/` beside the package in a checkout, inside it in the wheel."""
    return next(path for path in (PACKAGE / "templates", PACKAGE.parent / "templates") if path.is_dir())


@cache
def library(folder: str = "server") -> str:
    """The functions of one folder of templates/, as one text."""
    return "".join(path.read_text() for path in sorted((templates() / folder).glob("*.sh")))


@cache
def programs() -> Mapping[str, str]:
    """Name -> text of what is copied into `RELEASE/.release/`."""
    folder = templates() / "release"
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.py"))}


def opening(stage: Stage, host: Host, nonce: str, variables: Mapping[str, str] | None = None, more: str = "") -> str:
    """What turns a bare bash into a session on `host`: the library, `more` functions, then its one call."""
    layout = stage.layout
    kinds = [f"{name}={service.kind}" for name, service in stage.services_on(host).items()]
    where: list[Word] = [nonce, layout.deploy_to, layout.run, stage.application, stage.manager]
    words = [*where, LEASE_SECONDS, stage.port, *kinds]
    given = "".join(f"{name}={quoted(value)}\n" for name, value in (variables or {}).items())
    return f"{library()}{more}export LC_ALL=C.UTF-8\n{given}session {' '.join(quoted(word) for word in words)}\n"
