"""The server library: the bash functions every script calls, and the programs every release carries."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..model.config import Host, Stage
from ..model.shell import Word, quoted
from ..server.values import wire
from ..server.values.site import Site

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


@cache
def server_code() -> tuple[str, str]:
    """(its hash, itself): tasks/server as a compressed archive in base64, the same bytes for the same code."""
    code = io.BytesIO()
    with tarfile.open(fileobj=code, mode="w") as archive:
        for path in sorted((PACKAGE / "server").rglob("*.py")):
            text = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(PACKAGE / "server")))
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text))
    whole = code.getvalue()
    return hashlib.sha256(whole).hexdigest()[:24], base64.b64encode(gzip.compress(whole, mtime=0)).decode()


def site(stage: Stage, host: Host) -> Site:
    """What every function of tasks/server is told first."""
    kinds: dict[str, str] = {name: service.kind for name, service in stage.services_on(host).items()}
    where = str(stage.layout.deploy_to)
    return Site(where, stage.application, stage.name, kinds, stage.manager, stage.known_as)


def _python(host: Host) -> Mapping[str, str]:
    """Where the code is on this machine; a server is given it, and keeps it where only the session's account writes."""
    if host.transport == "local":
        return {"SERVER_FOLDER": str(PACKAGE / "server"), "SERVER_PYTHON": sys.executable}
    return dict(zip(("SERVER_HASH", "SERVER_CODE"), server_code(), strict=True))


def opening(stage: Stage, host: Host, nonce: str, variables: Mapping[str, str] | None = None, more: str = "") -> str:
    """What turns a bare bash into a session on `host`: the library, `more` functions, then its one call."""
    layout = stage.layout
    own = site(stage, host)
    kinds = [f"{name}={kind}" for name, kind in own.services.items()]
    where: list[Word] = [nonce, layout.deploy_to, layout.run, stage.known_as, stage.manager]
    words = [*where, LEASE_SECONDS, stage.port, *kinds]
    known = {"SITE": wire.dumps(own), **_python(host), **(variables or {})}
    given = "".join(f"{name}={quoted(value)}\n" for name, value in known.items())
    return f"{library()}{more}export LC_ALL=C.UTF-8\n{given}session {' '.join(quoted(word) for word in words)}\n"
