"""Reads a Django project as a newcomer would, so that `fab init` can write a releases.toml that is right at once.

Text is searched, never imported: settings may need variables, databases and packages that are not here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..model.config import Inside, Match, Module, Reference, Stage
from ..model.errors import UsageError
from .shape import bare, fields_of

FOREIGN = {"node_modules", "site-packages", "venv", "env", "build", "dist", "__pycache__", "tests", "test", "docs"}
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
HEALTH = r"healthz?|health[-_]?checks?|livez|readyz|ping|_health|_healthz|ht"
DATABASE_URL = r"dj_database_url|DATABASE_URL|\benv\.db\("
DEEPEST = 4
"""Folders below the top that are looked into."""


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
        environment_format="decouple" if re.search(r"^\s*(from|import) decouple\b", spoken, re.MULTILINE) else "dotenv",
        static_root=place(spoken, "STATIC_ROOT"),
        collects="STATIC_ROOT" in spoken,
        media=below(home, media(spoken)),
        sqlite=below(home, sqlite(spoken)),
        engine=engine(spoken),
        database_url=bool(re.search(DATABASE_URL, spoken)),
        health=health(root / home, near, spoken),
        notes=tuple(notes(root, inside, needs, spoken)),
    )


# ---- files ----------------------------------------------------------------------------------------------------------


def sources(root: Path) -> Iterator[PurePosixPath]:
    """Every Python file that is the project's own, from the top down."""
    for folder, below, names in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        own = [
            one
            for one in below
            if one not in FOREIGN and not one.startswith(".") and not (here / one / "pyvenv.cfg").exists()
        ]
        below[:] = sorted(own) if depth < DEEPEST else []
        yield from (PurePosixPath((here / one).relative_to(root)) for one in sorted(names) if one.endswith(".py"))


def text(path: Path) -> str:
    """A file's text; "" for one that cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def nearest(paths: Iterable[PurePosixPath]) -> PurePosixPath | None:
    return min(paths, key=lambda one: (len(one.parts), str(one)), default=None)


def first(root: Path, home: PurePosixPath, names: Iterable[str]) -> PurePosixPath | None:
    """The first of the names that exists: beside manage.py, or above it."""
    places = [home, *home.parents]
    return next((place / name for name in names for place in places if (root / place / name).is_file()), None)


def below(home: PurePosixPath, path: str) -> str:
    return str(home / path) if path else ""


def fits(value: str, hint: object) -> bool:
    kind, match = bare(hint)
    return kind is str and isinstance(match, Match) and bool(re.fullmatch(match.pattern, value, re.ASCII))


# ---- Python ---------------------------------------------------------------------------------------------------------


def settings_named(source: str) -> str:
    found = re.search(r"""DJANGO_SETTINGS_MODULE["']\s*(?:,|\]\s*=)\s*["']([\w.]+)["']""", source)
    return found[1] if found and fits(found[1], Module) else ""


def module(path: PurePosixPath) -> str:
    name = ".".join(path.with_suffix("").parts)
    return name if fits(name, Module) else ""


def source_of(home: Path, name: str) -> str:
    path = home.joinpath(*name.partition(":")[0].split(".")) if name else home
    return text(path.with_suffix(".py")) if name else ""


def entry(home: Path, near: Iterable[PurePosixPath], kind: str, settings: str) -> str:
    """The module gunicorn can serve: what the settings name, or the nearest wsgi.py."""
    spoken = settings_text(home, {settings})
    named = re.search(rf"""{kind.upper()}_APPLICATION\s*=\s*["']([\w.]+)\.(\w+)["']""", spoken)
    if named and (home.joinpath(*named[1].split(".")).with_suffix(".py")).is_file():
        return f"{named[1]}:{named[2]}"
    path = nearest(one for one in near if one.name == f"{kind}.py" and module(one))
    return f"{module(path)}:application" if path else ""


def settings_text(home: Path, names: Iterable[str]) -> str:
    """What the settings say, with the modules beside them when they are a package (base, local, production)."""
    parts: dict[Path, str] = {}
    for name in sorted(filter(None, names)):
        path = home.joinpath(*name.split("."))
        beside = path if path.is_dir() else path.parent if path.parent.name.startswith("settings") else None
        for one in [path.with_suffix(".py"), *(sorted(beside.glob("*.py")) if beside else [])]:
            parts[one] = text(one)
    return "\n".join(re.sub(r"^\s*#.*$", "", one, flags=re.MULTILINE) for one in parts.values())


def celery(home: Path, near: Iterable[PurePosixPath], spoken: str) -> dict[str, Any]:
    """The Celery application, whether it has a timetable, and the queues its tasks are routed to."""
    made = {one: text(home / one) for one in near if module(one)}
    apps = [one for one, source in made.items() if re.search(r"^\w+\s*(:.*)?=\s*Celery\(", source, re.MULTILINE)]
    chosen = min(apps, key=lambda one: (not one.stem.startswith("celery"), len(one.parts), str(one)), default=None)
    if chosen is None:
        return {}
    everything = "\n".join([spoken, made[chosen], *(source for one, source in made.items() if one.stem == "tasks")])
    routed = re.findall(r"""(?:["']queue["']\s*:|\bqueue\s*=|\bQueue\()\s*["']([A-Za-z][\w-]{0,40})["']""", everything)
    default = re.search(r"""(?i:task_default_queue)\s*=\s*["']([A-Za-z][\w-]{0,40})["']""", everything)
    queues = tuple(dict.fromkeys([default[1] if default else "celery", *routed]))
    beat = bool(re.search(r"(?i)beat_schedule|django_celery_beat|add_periodic_task", everything))
    return {"celery": module(chosen), "beat": beat, "queues": queues if routed or default else ()}


# ---- settings -------------------------------------------------------------------------------------------------------


def place(spoken: str, name: str) -> str:
    """STATIC_ROOT = BASE_DIR / "a" / "b" -> "a/b"; "" when it comes from elsewhere."""
    found = re.findall(rf"^{name}\s*=\s*(.+)$", spoken, re.MULTILINE)
    if not found or re.search(r"environ|env|config|parent|dirname|getattr|f[\"']", found[-1]):
        return ""
    path = str(PurePosixPath(*re.findall(r"""["']([^"']*)["']""", found[-1])))
    return path if fits(path, Inside) else ""


def media(spoken: str) -> str:
    """As `place`, or "media" when that is what MEDIA_ROOT falls back to."""
    fallback = re.search(r"""^MEDIA_ROOT\s*=.*["']media/?["']""", spoken, re.MULTILINE)
    return place(spoken, "MEDIA_ROOT") or ("media" if fallback else "")


def sqlite(spoken: str) -> str:
    found = re.search(r"""["'](?:[\w./-]*/)?([\w-]+\.(?:sqlite3?|db))["'}]""", spoken)
    return found[1] if found and "sqlite" in spoken else ""


def engine(spoken: str) -> str:
    """Only what the settings leave no choice about."""
    found = {name for name in ("postgresql", "mysql", "sqlite") if re.search(rf"backends\.{name}", spoken)}
    return found.pop() if len(found) == 1 and not re.search(DATABASE_URL, spoken) else "any"


def health(home: Path, near: Iterable[PurePosixPath], spoken: str) -> str:
    """A health URL among those at the root; below an include() its prefix would be a guess."""
    root = re.search(r"""ROOT_URLCONF\s*=\s*["']([\w.]+)["']""", spoken)
    path = nearest(one for one in near if one.name == "urls.py")
    urls = source_of(home, root[1]) if root else text(home / path) if path else ""
    found = re.search(rf"""path\(\s*r?["']\^?/?((?:[\w-]+/)*(?:{HEALTH})/?)\$?["']""", urls)
    return f"/{found[1]}" if found else ""


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
    url = re.sub(r"^(https?://)[^/@]*@", r"\1", origin)
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
