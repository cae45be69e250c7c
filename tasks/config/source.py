"""What the Python files of somebody's project say, by searching their text: importing settings may need anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..model.typed import Inside, Match, Module
from .shape import bare

FOREIGN = {"node_modules", "site-packages", "venv", "env", "build", "dist", "__pycache__", "tests", "test", "docs"}
HEALTH = r"healthz?|health[-_]?checks?|livez|readyz|ping|_health|_healthz|ht"
DATABASE_URL = r"dj_database_url|DATABASE_URL|\benv\.db\("
DEEPEST = 4
"""Folders below the top that are looked into."""


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


def told(folder: Path, home: PurePosixPath, near: Iterable[PurePosixPath], spoken: str) -> dict[str, Any]:
    """What the settings say: about variables, files, the database, and where to ask whether all is well."""
    return {
        "environment_format": "decouple"
        if re.search(r"^\s*(from|import) decouple\b", spoken, re.MULTILINE)
        else "dotenv",
        "static_root": place(spoken, "STATIC_ROOT"),
        "collects": "STATIC_ROOT" in spoken,
        "media": below(home, media(spoken)),
        "sqlite": below(home, sqlite(spoken)),
        "engine": engine(spoken),
        "database_url": bool(re.search(DATABASE_URL, spoken)),
        "health": health(folder, near, spoken),
    }


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
