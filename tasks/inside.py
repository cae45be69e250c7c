"""`fab manage` and `fab shell`: the live release from within, with its own environment."""

from __future__ import annotations

import shlex
import subprocess
import sys

import invoke

from ._operator import chosen, load_stage
from ._task import task
from .model.config import Host, Stage
from .model.errors import FailedError, UsageError
from .report.safe import Readable


@task(help={"command": 'what manage.py should do, as "createsuperuser" or "shell"'}, positional=["command"])
def manage(context: invoke.Context, command: str, stage: str = "") -> int:
    """Run a manage.py command in the live release (one host); its exit code is yours."""
    here = load_stage(stage)
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise UsageError(f"{command!r} is not a command line: {problem}") from None
    return _inside(context, here, [".venv/bin/python", here.django.manage, *words])


@task()
def shell(context: invoke.Context, stage: str = "") -> int:
    """Open a shell in the live release, with the variables its services have."""
    return _inside(context, load_stage(stage), ["/bin/bash"])


def _inside(context: invoke.Context, stage: Stage, words: list[str]) -> int:
    """On the first host of those chosen that runs migrations, else the first."""
    hosts = chosen(stage, context)
    host = stage.primary if stage.primary in hosts else hosts[0]
    command = _command(stage, words)
    if host.transport == "local":
        return subprocess.call(["bash", "-c", command])
    return _over_ssh(host, command, next(iter(context.config.get("identity", ())), ""))


def _command(stage: Stage, words: list[str]) -> str:
    """Paths are made absolute first: the working directory is the folder of manage.py."""
    current = shlex.quote(str(stage.layout.current))
    told = " ".join(
        f'"$release"/{shlex.quote(word)}' if index < 2 and not word.startswith("/") else shlex.quote(word)
        for index, word in enumerate(words)
    )
    return (
        f'release=$(readlink -f {current}) && [ -d "$release" ] '
        f'|| {{ echo "nothing is live in {stage.deploy_to}" >&2; exit 1; }}; '
        f'exec /usr/bin/env python3 -IS "$release/.release/launch.py" exec -- {told}'
    )


def _over_ssh(host: Host, command: str, identity: str) -> int:
    from .engine.ssh import Target, connect

    target = Target(host.name, host.address, host.port, host.user, host.host_key, host.identity or identity)
    connection = connect(target)
    here = sys.stdin.isatty()
    # With a terminal at both ends it is a session, as ssh's: what runs there has the screen to itself.
    streams = {} if here else {"out_stream": Readable(sys.stdout), "err_stream": Readable(sys.stderr)}
    try:
        said = f"bash -c {shlex.quote(command)}"
        done = connection.run(said, pty=here, warn=True, in_stream=None if here else False, **streams)
    finally:
        connection.close()
        for stream in streams.values():
            stream.end()
    if done.exited == -1:
        raise FailedError(f"{host.name}: the connection was lost; whether the command ended is unknown")
    return int(done.exited)


TASKS = ("manage", "shell")
