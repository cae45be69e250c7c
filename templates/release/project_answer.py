"""Gives the one answer of project.py: a JSON line on the real stdout, all other talk on stderr, no secret in either."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from urllib.parse import unquote

RELEASE_FOLDER = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(RELEASE_FOLDER)
SECRET_NAME = re.compile(r"KEY|SECRET|PASS|TOKEN|CREDENTIAL", re.IGNORECASE)
URL_PASSWORD = re.compile(r"://[^/\s:@]*:([^\s@]+)@")
SHORTEST_SECRET = 6  # hiding shorter ones would tear words apart and hide nothing
HINTS = {
    "ImportError": "Add the missing package to the requirements, or to the extra packages of the release.",
    "ModuleNotFoundError": "Add the missing package to the requirements, or to the extra packages of the release.",
    "KeyError": "A setting may be missing from the environment file of this application.",
    "ImproperlyConfigured": "A setting is missing or wrong: look at the environment file of this application.",
    "UndefinedValueError": "A setting is missing: look at the environment file of this application.",
    "PermissionError": "The application writes where it may not: share that folder, or give it to its user.",
}


class Refused(Exception):
    """Something is not as it must be: one sentence says what, one says what to do, facts go along."""

    def __init__(self, error: str, hint: str = "", **facts: object) -> None:
        super().__init__(error)
        self.answer = {**facts, "error": error, "hint": hint}


def take_stdout() -> int:
    """Keep the real stdout for the answer; what the application prints goes to stderr, and it cannot read our stdin."""
    answer = os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return answer


def give(descriptor: int, answer: dict) -> None:
    """Write the answer whole: a long list of migrations does not fit a pipe at once."""
    rest = (json.dumps(clean(answer), default=str) + "\n").encode()
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def say(text: str) -> None:
    print(scrub(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Shown to people at once, and not only in the log of a step."""
    say(f"fab-releases: {text}")


def failure(error: BaseException) -> dict:
    """The answer for any exception; for one of the application's, its last frames are shown on stderr."""
    if isinstance(error, Refused):
        return error.answer
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(RELEASE_FOLDER)]
    frames = [f for f in frames if not f.filename.startswith("<frozen")]
    for frame in frames[-8:]:
        say(f"  {frame.filename}:{frame.lineno} in {frame.name}")
    kind = type(error).__name__
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    say(message)
    where = next((f for f in reversed(frames) if in_checkout(f.filename)), None)
    place = f" ({os.path.relpath(where.filename, ROOT)}:{where.lineno})" if where else ""
    return {"error": f"{kind}: {first_line(error)}{place}", "hint": hint_for(error)}


def hint_for(error: BaseException) -> str:
    """A module that is missing from a package of the checkout is no package anybody could install."""
    package = sys.modules.get(str(getattr(error, "name", "")).partition(".")[0])
    if isinstance(error, ModuleNotFoundError) and any(in_checkout(path) for path in getattr(package, "__path__", ())):
        return f"{error.name} would be a module of this project: was its file committed?"
    return HINTS.get(type(error).__name__, "The lines on stderr say where it happened.")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def in_checkout(path: str) -> bool:
    """Whether a file is the application's own: in the release, but not in its environment."""
    return path.startswith(ROOT + os.sep) and f"{os.sep}.venv{os.sep}" not in path


def clean(value: object) -> object:
    if isinstance(value, dict):
        return {key: clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(inner) for inner in value]
    return scrub(value) if isinstance(value, str) else value


def scrub(text: str) -> str:
    for secret in sorted(secrets(), key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    return URL_PASSWORD.sub(lambda found: found.group().replace(found.group(1), "[secret]"), text)


def secrets() -> set[str]:
    """Values that must never be shown, as far as the environment and the settings tell them."""
    values = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and not value.startswith("/")}
    for value in os.environ.values():
        values.update(part for found in URL_PASSWORD.findall(value) for part in (found, unquote(found)))
    django_conf = sys.modules.get("django.conf")
    if django_conf is not None and django_conf.settings.configured:
        values.add(str(getattr(django_conf.settings, "SECRET_KEY", "")))
        values.update(str(database.get("PASSWORD") or "") for database in django_conf.settings.DATABASES.values())
    return {value for value in values if len(value) >= SHORTEST_SECRET}
