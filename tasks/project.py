"""`fab init`, `fab config`, `fab files`: the project's own folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import invoke

from ._operator import chosen, load_stage
from ._task import task
from .model.errors import UsageError
from .report.safe import err, out, out_json


@task(help={"ci": "also write a workflow: github or gitlab"})
def init(context: invoke.Context, ci: str = "") -> None:
    """Look at the Django project in this folder and write its releases.toml and fabfile."""
    from .config.discover import discover
    from .config.write import files, write

    if ci not in ("", "github", "gitlab"):
        raise UsageError(f"--ci {ci}: it is github or gitlab")
    found = discover(Path())
    written, kept = write(Path(), files(found, ci))  # type: ignore[arg-type]
    for path in written:
        out(f"written  {path}")
    for path in kept:
        out(f"kept     {path} (it was there already)")
    for note in found.notes:
        err(f"note     {note}")
    out("\nNext: read releases.toml, commit, then `fab deploy` puts that commit live on this machine (stage sandbox).")


@task(help={"key": "as health.path"}, positional=["key"])
def explain(context: invoke.Context, key: str) -> None:
    """Explain a key of releases.toml."""
    from .config import reference

    out(reference.explain(key))


@task()
def config(context: invoke.Context, stage: str = "") -> None:
    """Show a stage as it will be used, with every default filled in."""
    out_json(asdict(load_stage(stage)), indent=2)


@task(help={"to": "folder to write them into"})
def files(context: invoke.Context, to: str, stage: str = "") -> None:
    """Write the files a server needs for this stage: units, sudoers, nginx (a folder per host for several)."""
    from .remote.files import server_files

    here = load_stage(stage)
    if here.manager != "systemd":
        raise UsageError(f"stage {here.name} needs no files on a server", "choose one with --stage")
    hosts = chosen(here, context)
    for host in hosts:
        folder = Path(to) / host.name if len(hosts) > 1 else Path(to)
        for path, text in server_files(here, host).items():
            place = folder / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            out(str(place))


TASKS = ("init", "config", "explain", "files")
