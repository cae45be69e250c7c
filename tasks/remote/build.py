"""What turns a checkout into a release: its programs, environment, links into shared/ and static files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from ..model.config import Host, Service, Stage
from ..model.release import Release
from ..model.shell import Script, joined, script
from .library import programs

UV_VERSION = "0.13.9"


def describe(stage: Stage, host: Host, release: Release) -> Script:
    """Our programs and what this release's services run."""
    files = {**programs(), "services.json": json.dumps(services_json(stage, host, release), indent=1)}
    return Script(tuple(("program", release.id, name, text) for name, text in files.items()))


def services_json(stage: Stage, host: Host, release: Release) -> dict[str, Any]:
    layout = stage.layout
    chosen = {"DJANGO_SETTINGS_MODULE": stage.django.settings} if stage.django.settings else {}
    bind = str(layout.socket(release.id)) if stage.manager == "supervisor" else ""
    return {
        "application": stage.application,
        "release": release.id,
        "root": str(layout.release(release.id)),
        "directory": stage.directory,
        "shared": str(layout.shared),
        "run": str(layout.run),
        "environment": {
            "file": stage.environment.file,
            "format": stage.environment.format,
            "set": {**chosen, **stage.environment.set},
        },
        "manage": PurePosixPath(stage.django.manage).name,
        "services": {
            name: {"kind": one.kind, "command": command(stage, one), **({"bind": bind} if one.kind == "web" else {})}
            for name, one in stage.services_on(host).items()
        },
    }


def command(stage: Stage, service: Service) -> list[str]:
    """The words of a service's command line, before the release adds its socket, name and hooks."""
    if service.command:
        return shlex.split(service.command)
    if service.kind == "web":
        words = ["gunicorn", service.application or stage.django.wsgi, "--threads", str(service.threads)]
        return words + (["--workers", str(service.workers)] if service.workers else [])
    words = ["celery", "-A", service.application, service.kind, "--loglevel", "info"]
    if service.kind == "worker":
        words += ["--concurrency", str(service.workers)] if service.workers else []
        words += ["--queues", ",".join(service.queues)] if service.queues else []
    return words


def environment(stage: Stage, release: Release, *, fresh: bool = False) -> Script:
    """`fresh`: built from nothing, with no environment or link of an earlier release in it."""
    python = stage.python
    return script(
        (
            "environment",
            release.id,
            "fresh" if fresh else "",
            python.version,
            python.installer,
            UV_VERSION,
            python.requirements,
            python.constraints,
            " ".join(python.groups),
            *python.extra,
        )
    )


def link_shared(stage: Stage, release: Release) -> Script:
    user = stage.app_user if stage.manager == "systemd" else ""
    folders = tuple(("link_folder", release.id, path, user) for path in stage.shared_dirs)
    files = tuple(("link_file", release.id, path) for path in stage.shared_files)
    return Script(folders + files)


def compile_code(release: Release) -> Script:
    return script(("compile_code", release.id))


def hooks(release: Release, when: str, commands: Iterable[str]) -> Script:
    return Script(tuple(("hook", release.id, when, one) for one in commands))


def static_files(stage: Stage, release: Release) -> Script:
    """Hooks may compile or compress what is collected: with them nothing can be reused."""
    root = str(PurePosixPath(stage.directory) / stage.django.static_root)
    always = "always" if stage.hooks.before_static or stage.hooks.after_static else ""
    return joined(
        (
            hooks(release, "before_static", stage.hooks.before_static),
            script(("static_files", release.id, root, always)),
            hooks(release, "after_static", stage.hooks.after_static),
            script(("pool_static", release.id, root)),
        )
    )


def finish(release: Release) -> Script:
    return script(("finish_build", release.id, release.to_json()))


def discard(release: Release) -> Script:
    return script(("discard", release.id))
