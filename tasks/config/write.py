"""Writes the first files of a project: what `fab init` leaves behind is the user's own and is never written again."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .discover import Project

FABFILE = "from fab_releases import namespace\n"
WORKFLOWS = {"github": ".github/workflows/deploy.yml", "gitlab": ".gitlab-ci.yml"}
PYTHON = "3.12"
"""For continuous integration, when the project names no version."""
MARKER = re.compile(r"@([A-Z_]+)@")


def files(project: Project, ci: Literal["github", "gitlab", ""] = "") -> dict[str, str]:
    """Path, seen from the folder that was looked at, -> text."""
    found = {"releases.toml": releases(project), "fabfile.py": FABFILE}
    if ci:
        path = posixpath.normpath(posixpath.join(project.above, WORKFLOWS[ci]))
        found[path] = workflow(project, template(f"deploy.{ci}.yml"))
    return found


def write(root: Path, wanted: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Write what is not there yet: (written, kept)."""
    written, kept = [], []
    for name, text in wanted.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(name)
        except FileExistsError:
            kept.append(name)
    return written, kept


def template(name: str) -> str:
    """From beside the package in a checkout, from inside of it once installed."""
    package = Path(__file__).parent.parent
    templates = next(path for path in (package / "templates", package.parent / "templates") if path.is_dir())
    return (templates / "init" / name).read_text("utf-8")


def workflow(project: Project, text: str) -> str:
    """A line about settings goes when they are unknown: an empty DJANGO_SETTINGS_MODULE is worse than none."""
    values = {
        "APPLICATION": project.application,
        "BRANCH": project.branch,
        "PYTHON": project.python or project.python_minimum or PYTHON,
        "REQUIREMENTS": posixpath.join(project.sub_directory, project.requirements) if project.requirements else "",
        "MANAGE_DIRECTORY": posixpath.join(project.sub_directory, project.directory).rstrip("/") or ".",
        "SETTINGS": project.settings or None,
    }
    return filled(text, values)


def filled(text: str, values: Mapping[str, str | None]) -> str:
    """A line whose marker has no value goes, and so does a table that loses every line with one."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        kept = [line for line in lines if all(values.get(name, name) is not None for name in MARKER.findall(line))]
        if len(kept) < len(lines) and bare(kept):
            continue
        paragraphs.append(
            "\n".join(MARKER.sub(lambda found: values.get(found[1], found[0]) or "", line) for line in kept)
        )
    return "\n\n".join(paragraphs)


def bare(lines: list[str]) -> bool:
    """Only a heading, or a service that no longer says what to run."""
    says = [line for line in lines if line and not line.startswith(("#", "["))]
    return not says or (len(says) == 1 and bool(re.match(r'kind = "(worker|beat)"', says[0])))


def releases(project: Project) -> str:
    return filled(template("releases.toml"), layout(project) | running(project) | sandbox(project))


def layout(project: Project) -> dict[str, str | None]:
    """Where things are."""
    return {
        "APPLICATION": toml(project.application),
        "SUB_DIRECTORY": toml(project.sub_directory or None),
        "SHARED_DIRS": toml([project.media] if project.media else None),
        "REQUIREMENTS": toml(project.requirements or None),
        "MANAGE": toml(project.manage),
        "PRODUCTION_SETTINGS": toml(project.production_settings or None),
        "STATIC_ROOT": toml(project.static_root or None),
        "COLLECTSTATIC": toml(None if project.collects else False),
        "FORMAT": toml(project.environment_format),
        "EXAMPLE": project.environment_example or None,
        "ABOVE": toml(project.above),
        "REPOSITORY": toml(project.repository or f"https://git.example.com/{project.application}.git"),
        "BRANCH": toml(project.branch),
        "DEPLOY_TO": toml(f"/var/www/{project.application}"),
        "VERSION": toml(project.python or None),
        "ENGINE": toml("postgresql" if project.engine == "any" else project.engine),
    }


def running(project: Project) -> dict[str, str | None]:
    """What runs, and how it is asked whether it is well."""
    command, *packages = server(project)
    extra = [one for one in packages if one not in project.packages]
    advice = "Must answer 200 before users see the release, and after."
    if not project.health:
        advice = "No health URL was found: one that asks the database and answers 200 is worth having."
    return {
        "WSGI": toml(project.wsgi or None),
        "COMMAND": toml(command or None),
        "EXTRA": toml(extra or None),
        "CELERY": toml(project.celery or None),
        "BEAT": toml(project.celery if project.beat else None),
        "QUEUES": toml(list(project.queues) if project.celery and project.queues else None),
        "HEALTH": toml(project.health or "/"),
        "HEALTH_ADVICE": advice,
        "EXPECT": toml(None if project.health else [200, 301, 302]),
    }


def server(project: Project) -> tuple[str, ...]:
    """The command of the web service, "" for gunicorn with [django] wsgi, and the packages it needs."""
    if project.wsgi:
        return "", "gunicorn"
    if project.asgi:
        return f"gunicorn --worker-class uvicorn_worker.UvicornWorker {project.asgi}", "gunicorn", "uvicorn-worker"
    return "gunicorn 'django.core.wsgi:get_wsgi_application()'", "gunicorn"


def sandbox(project: Project) -> dict[str, str | None]:
    """A database that outlives releases: in a folder of its own where the settings let us, else the file they name."""
    media = [project.media] if project.media else []
    data = posixpath.join(project.directory, "data")
    beside = project.sqlite if project.sqlite and not project.database_url else ""
    return {
        "SANDBOX_SETTINGS": toml(project.settings if project.settings != project.production_settings else None),
        "SANDBOX_SHARED_DIRS": toml([*media, data] if project.database_url else None),
        "SANDBOX_SHARED_FILES": toml([beside] if beside else None),
        "SANDBOX_DATABASE": toml("sqlite:///data/db.sqlite3" if project.database_url else None),
    }


def toml(value: object) -> str | None:
    """JSON's text, numbers and lists are TOML's as well."""
    return None if value is None else json.dumps(value, ensure_ascii=False)
