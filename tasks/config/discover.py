"""Reads a Django project as a newcomer would, so that `fab init` can write a releases.toml that is right at once.

Text is searched, never imported: settings may need variables, databases and packages that are not here.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..model.config import Stage
from ..model.errors import UsageError
from ..model.typed import Inside, Reference
from .shape import fields_of
from .source import celery, entry, first, fits, nearest, settings_named, settings_text, source_of, sources, text, told

LOCKS = (
    "uv.lock",
    "pylock.toml",
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "requirements-prod.txt",
    "requirements-production.txt",
    "poetry.lock",
    "Pipfile.lock",
    "pyproject.toml",
)
"""In the order of preference: a lock with hashes before a list, a list before what needs an export."""
EXPORTS = {
    "poetry.lock": "poetry export --output requirements.txt",
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
}
EXAMPLES = (".env.example", ".env.sample", ".env.template", ".env.dist", "env.example", ".env.production.example")


@dataclass(frozen=True, kw_only=True)
class Project:
    """What was found. Paths are relative to the release, which is the folder that was looked at."""

    application: str
    manage: str
    settings: str = ""
    """What manage.py sets: often the developer's own."""
    production_settings: str = ""
    """What wsgi.py sets, or the same."""
    wsgi: str = ""
    asgi: str = ""
    celery: str = ""
    beat: bool = False
    queues: tuple[str, ...] = ()
    """Every queue tasks are routed to, with the default one; () when nothing is routed."""
    requirements: str = ""
    packages: frozenset[str] = frozenset()
    """Of those this cares about, the ones among the requirements."""
    python: str = ""
    """Pinned by .python-version or runtime.txt."""
    python_minimum: str = ""
    """From requires-python."""
    repository: str = ""
    branch: str = "main"
    above: str = "."
    """The top of the checkout, seen from the folder looked at."""
    sub_directory: str = ""
    """The folder looked at, seen from the top of the checkout."""
    environment_example: str = ""
    environment_format: str = "dotenv"
    static_root: str = ""
    """Relative to manage.py; "" when the settings have none that could be read."""
    collects: bool = True
    """The settings speak of STATIC_ROOT."""
    media: str = ""
    sqlite: str = ""
    """The file of an SQLite database inside the checkout."""
    engine: str = "any"
    database_url: bool = False
    """The settings take the database from DATABASE_URL."""
    health: str = ""
    notes: tuple[str, ...] = ()
    """What the user should know or do."""

    @property
    def directory(self) -> str:
        parent = str(PurePosixPath(self.manage).parent)
        return "" if parent == "." else parent


def discover(root: Path) -> Project:
    """Raises UsageError when there is no manage.py here or in a folder below."""
    files = tuple(sources(root))
    manage = nearest(one for one in files if one.name == "manage.py" and "DJANGO_SETTINGS" in text(root / one))
    if not manage:
        raise UsageError(f"There is no manage.py in {root} or below.", "Run this in the folder of a Django project.")
    inside = git(root, "rev-parse", "--show-prefix").rstrip("/")
    for path in filter(None, (str(manage), inside)):
        if not fits(path, Inside):
            raise UsageError(f'"{path}" cannot be released.', "Rename its folders: letters, digits, and ._+@- only.")
    home = manage.parent
    near = tuple(one.relative_to(home) for one in files if one.is_relative_to(home))
    settings = settings_named(text(root / manage))
    wsgi, asgi = (entry(root / home, near, name, settings) for name in ("wsgi", "asgi"))
    production = settings_named(source_of(root / home, wsgi)) or settings
    spoken = settings_text(root / home, {settings, production})
    lock = first(root, home, LOCKS)
    needs = EXPORTS.get(lock.name) if lock else None
    origin = git(root, "remote", "get-url", "origin")
    return Project(
        application=application(origin, root),
        manage=str(manage),
        settings=settings,
        production_settings=production,
        wsgi=wsgi,
        asgi=asgi,
        **celery(root / home, near, spoken),
        requirements=str(lock.with_name("requirements.txt") if lock and needs else lock or ""),
        packages=packages(root, lock),
        python=pinned(root, home),
        python_minimum=minimum(root, home),
        **checkout(root, origin),
        above="/".join([".."] * len(inside.split("/"))) if inside else ".",
        sub_directory=inside,
        environment_example=str(first(root, home, EXAMPLES) or ""),
        **told(root / home, home, near, spoken),
        notes=tuple(notes(root, inside, needs, spoken)),
    )


# ---- packaging ------------------------------------------------------------------------------------------------------


def packages(root: Path, lock: PurePosixPath | None) -> frozenset[str]:
    if not lock:
        return frozenset()
    spoken = text(root / lock) + (text(root / lock.with_name("base.txt")) if lock.parent.name == "requirements" else "")
    return frozenset(
        one for one in ("gunicorn", "uvicorn-worker") if re.search(rf"(?mi)^[\s\"']*(name = \")?{one}\b", spoken)
    )


def pinned(root: Path, home: PurePosixPath) -> str:
    path = first(root, home, (".python-version", "runtime.txt"))
    found = re.match(r"\s*(?:python-|cpython-)?(3\.\d{1,2})\b", text(root / path)) if path else None
    return found[1] if found else ""


def minimum(root: Path, home: PurePosixPath) -> str:
    path = first(root, home, ("pyproject.toml",))
    try:
        wanted = tomllib.loads(text(root / path)).get("project", {}).get("requires-python", "") if path else ""
    except (tomllib.TOMLDecodeError, AttributeError):
        return ""
    found = re.search(r"(?:>=|~=|==)\s*(3\.\d{1,2})", str(wanted))
    return found[1] if found else ""


# ---- git ------------------------------------------------------------------------------------------------------------


def git(root: Path, *words: str) -> str:
    """What git says; "" when it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def checkout(root: Path, origin: str) -> dict[str, Any]:
    url = re.sub(r"(?i)^(https?://).*@|^(ssh://[^:/@]*):[^/]*(?=@)", r"\1\2", origin)
    head = git(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD").removeprefix("origin/")
    branch = head or git(root, "branch", "--show-current")
    remote = fits(url, fields_of(Stage)["repository"]) and not url.startswith((".", "/"))
    return {
        "repository": url if remote else "",
        "branch": branch if fits(branch, Reference) else "main",
    }


def application(origin: str, root: Path) -> str:
    """The repository's name, or the folder's, as units and sockets can be called."""
    name = re.split(r"[/:]", origin.rstrip("/"))[-1].removesuffix(".git") or root.resolve().name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:40].rstrip("-") or "app"


def notes(root: Path, inside: str, export: str | None, spoken: str) -> Iterator[str]:
    if not git(root, "rev-parse", "HEAD"):
        yield "Nothing is committed here yet: releases are made from commits (git init, git add, git commit)."
    if inside:
        yield f"A pipeline starts at the top of the checkout: let its deploy step run in {inside}."
    if export:
        yield f"Servers install requirements.txt: write it with `{export}` and commit it."
    if "filter=lfs" in text(root / ".gitattributes"):
        yield "Git LFS is used: the servers' checkout has pointers instead of those files."
    if (root / ".gitmodules").is_file():
        yield "There are submodules: a release has the files of this repository only."
    if not spoken:
        yield "The settings could not be found: fill in [django] settings."
