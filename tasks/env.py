"""`fab env.set`, `unset`, `push`, `pull`, `diff`, `edit`, `versions`, `restore`: the application's variables."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import invoke

from . import _private as private
from ._scene import must
from ._task import task
from ._variables import (
    Change,
    Live,
    change,
    changing,
    compared,
    live,
    looking,
    named,
    stage_with_file,
    the_same,
    told,
    values,
)
from .engine.execute import ask
from .model.config import Stage
from .model.errors import FailedError, UsageError
from .model.event import Note
from .remote import env, variables
from .report.safe import clean, err, is_read_by_people, out, out_bytes, out_json, prompt

RESTART = {"restart": "build what is live again, so that it runs with the new values; if it is not well, both go back"}
FILE = "the file (default: what [environment] source prints)"


@task(help=RESTART | {"key": "the variable's name, never its value"}, name="set", secret=True)
def set_key(
    context: invoke.Context,
    key: str,
    stage: str = "",
    restart: bool = False,
    wait: str = "",
    json: bool = False,
) -> int:
    """Give a variable a value on every host; the value is asked for without echo, or read from stdin."""
    variables.valid_key(key, "dotenv")  # before anything can fail with the words of the command line
    here = stage_with_file(stage)
    variables.valid_key(key, here.environment.format)
    value = private.asked(key)
    with changing(context, here, f"env.set {key}", wait, json=json) as at:
        found = live(at)
        text = _text(here, the_same(here, found))
        after = variables.with_value(text, here.environment.format, key, value).encode()
        return change(at, found, Change("env.set", f"{key} is set on {_hosts(at.sessions)}", after, restart))


@task(help=RESTART | {"key": "the variable's name"}, name="unset", secret=True)
def unset_key(
    context: invoke.Context,
    key: str,
    stage: str = "",
    restart: bool = False,
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Remove a variable on every host."""
    variables.valid_key(key, "dotenv")
    here = stage_with_file(stage)
    variables.valid_key(key, here.environment.format)
    with changing(context, here, f"env.unset {key}", wait, json=json) as at:
        found = live(at)
        text = _text(here, the_same(here, found))
        if key not in values(here, text.encode(), _place(here)):
            raise UsageError(f"{key} is not in {_place(here)}; nothing was changed", "`fab env.diff FILE` shows names")
        after = variables.without(text, here.environment.format, key).encode()
        return change(at, found, Change("env.unset", f"{key} is gone on {_hosts(at.sessions)}", after, restart, yes))


@task(help=RESTART | {"file": FILE}, secret=True)
def push(
    context: invoke.Context,
    file: str = "",
    stage: str = "",
    restart: bool = False,
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Put a file of yours, or what a command prints, in place of the variables on every host."""
    here = stage_with_file(stage)
    after = _given(here, file)
    values(here, after, file or "[environment] source")
    with changing(context, here, "env.push", wait, json=json) as at:
        if file and private.is_open_to_others(Path(file)):
            at.tell(Note(f"others on this machine may read {file}: chmod 600 {file}", warning=True))
        said = f"{here.environment.file} is replaced on {_hosts(at.sessions)}"
        return change(at, live(at), Change("env.push", said, after, restart, yes))


@task(help={"to": "a new file, readable by you alone; - is stdout", "force": "replace that file"}, secret=True)
def pull(context: invoke.Context, to: str = "", stage: str = "", force: bool = False) -> None:
    """Fetch the variables as they are on every host."""
    here = stage_with_file(stage)
    if not to and is_read_by_people(sys.stdout):
        raise UsageError("the values would be shown here", "--to FILE; or --to - if that is what you want")
    with looking(context, here) as at:
        content = the_same(here, live(at))
    if content is None:
        raise FailedError(f"there is no {_place(here)}", "`fab env.push FILE` puts one there")
    if to in ("", "-"):
        out_bytes(content)
        return
    private.write(Path(to), content, force=force)
    if private.git_would_take(Path(to)):
        err(f"warning: git does not ignore {to}: a commit could take it along")


@task(help={"file": FILE}, secret=True)
def diff(context: invoke.Context, file: str = "", stage: str = "", json: bool = False) -> None:
    """Which variables a file of yours would add, remove and change on each host: names, never values."""
    here = stage_with_file(stage)
    given = _given(here, file) if file or here.environment.source else None
    if given is not None:
        values(here, given, file or "[environment] source")
    with looking(context, here) as at:
        found = live(at)
    first = next(iter(found))
    for host, content in found.items():
        values(here, content, f"{host}: {_place(here)}")
    if json:
        _print_json(
            here, _differences(here, found, given), compared_with=file or ("source" if given is not None else first)
        )
        return
    for host, content in found.items():
        if given is not None:
            _report(host, told(here, content, given))
        elif host == first:
            names = sorted(values(here, content, _place(here)))
            _report(host, [*named(here, names, content), f"{len(names)} variables"])
        else:
            _report(f"{host}, compared with {first}", told(here, found[first], content))


@task(help=RESTART, secret=True)
def edit(
    context: invoke.Context,
    stage: str = "",
    restart: bool = False,
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Open the variables in your editor, and put what you leave on every host; the lock is held meanwhile."""
    here = stage_with_file(stage)
    with changing(context, here, "env.edit", wait, json=json) as at:
        found = live(at)
        before = the_same(here, found) or b""
        after = _edited(here, before)
        said = f"{here.environment.file} is replaced on {_hosts(at.sessions)}"
        return change(at, found, Change("env.edit", said, after, restart, yes))


@task()
def versions(context: invoke.Context, stage: str = "", json: bool = False) -> None:
    """The kept versions of the variables on each host, by the moment (UTC) each was replaced."""
    here = stage_with_file(stage)
    with looking(context, here) as at:
        said = at.together(lambda session: ask(session, env.versions(here)))
    kept = {
        host: [mark.words[0] for mark in must(result, host).marks if mark.kind == "version"]
        for host, result in said.items()
    }
    if json:
        _print_json(here, kept)
        return
    for host, lines in kept.items():
        _report(host, lines or ["none"])


@task(help=RESTART | {"version": "one that `fab env.versions` lists"}, secret=True)
def restore(
    context: invoke.Context,
    version: str,
    stage: str = "",
    restart: bool = False,
    wait: str = "",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Put a kept version of the variables back on every host."""
    if not re.fullmatch(r"\d{8}-\d{6}-\d{6}", version):
        raise UsageError("that is not a version", "`fab env.versions` lists them, as 20261122-101530-000042")
    here = stage_with_file(stage)
    with changing(context, here, f"env.restore {version}", wait, json=json) as at:
        after = the_same(here, live(at, env.read_version(here, version))) or b""
        said = f"{here.environment.file} is as before {version} on {_hosts(at.sessions)}"
        return change(at, live(at), Change("env.restore", said, after, restart, yes))


def _given(stage: Stage, file: str) -> bytes:
    if file:
        return private.from_file(Path(file))
    if not stage.environment.source:
        raise UsageError("which file?", "`fab env.push FILE`; or name the command that prints it: [environment] source")
    return private.from_command(stage.environment.source)


def _edited(stage: Stage, before: bytes) -> bytes:
    """What is left of it once it can be read. FailedError where it cannot, and nobody wants to edit it again."""
    name = PurePosixPath(stage.environment.file).name
    with private.desk(name, before) as path:
        while True:
            after = private.edit(path)
            try:
                values(stage, after, name)
            except FailedError as problem:
                if not _again(f"{problem.message}\nEdit it again? (yes, or no to change nothing):"):
                    raise FailedError(f"{problem.message}; nothing was changed", problem.hint) from None
            else:
                return after


def _again(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    prompt(question)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _text(stage: Stage, content: bytes | None) -> str:
    """The live file, readable as a whole. FailedError with the line that is not."""
    values(stage, content, _place(stage))
    return variables.decoded(content or b"", _place(stage))


def _place(stage: Stage) -> str:
    return str(stage.layout.shared / stage.environment.file)


def _hosts(names: Iterable[str]) -> str:
    return ", ".join(names)


def _differences(stage: Stage, found: Live, given: bytes | None) -> dict[str, object]:
    """What `given` would change on each host, or what is other there than on the first one."""
    first = next(iter(found.values()))
    return {
        host: {
            "there": content is not None,
            "names": named(stage, sorted(values(stage, content, _place(stage))), content),
            **(compared(stage, first, content) if given is None else compared(stage, content, given)),
        }
        for host, content in found.items()
    }


def _print_json(stage: Stage, hosts: Mapping[str, object], **more: str) -> None:
    out_json({"stage": stage.name, "file": _place(stage), **more, "hosts": hosts})


def _report(host: str, lines: list[str]) -> None:
    out("\n".join([clean(host), *(f"  {clean(line)}" for line in lines)]))


TASKS = ("set_key", "unset_key", "push", "pull", "diff", "edit", "versions", "restore")
