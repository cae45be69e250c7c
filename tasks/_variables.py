"""The environment file on every chosen host: read, compared by names, and changed together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import invoke

from ._operator import confirm, load_stage, now
from ._scene import Scene, must, scene, talk
from .deploy import again
from .engine.execute import ask
from .model.config import Stage
from .model.errors import FailedError, PreflightError, UsageError
from .model.event import Event, Note, PlanFinished
from .model.plan import Phase, Plan, Step
from .model.shell import Script
from .remote import env, services, variables
from .report.safe import clean, err

HIDDEN = "(what may be part of a value)"
OLD_VALUES = "what runs keeps the old values until the next deploy; `fab deploy --force` is one"

Live = Mapping[str, bytes | None]
"""Host -> what the file says there; None: there is none."""


@dataclass(frozen=True)
class Change:
    """What the file is to say on every host, in a task's words."""

    verb: str
    said: str
    after: bytes
    restart: bool = False
    yes: bool = False


def stage_with_file(name: str) -> Stage:
    here = load_stage(name)
    if not here.environment.file:
        raise UsageError('[environment] file is "": there is no file', "name one in releases.toml")
    return here


@contextmanager
def looking(context: invoke.Context, stage: Stage) -> Iterator[Scene]:
    """stdout is data: what is worth a word goes to stderr."""
    with scene(context, stage, _murmur) as at:
        yield at


@contextmanager
def changing(context: invoke.Context, stage: Stage, what: str, wait: str, *, json: bool) -> Iterator[Scene]:
    """Under the lock of every chosen host. LockedError also where one is frozen."""
    with talk(json=json) as tell, scene(context, stage, tell) as at:
        at.lock(what, wait)
        at.survey()
        at.thawed()
        others = [host.name for host in stage.app_hosts if host.name not in at.sessions]
        if others:
            tell(Note(f"{', '.join(others)}: not chosen, and left as it is", warning=True))
        yield at


def live(at: Scene, what: Script | None = None) -> dict[str, bytes | None]:
    """What the file says on each host. FailedError where it cannot be read."""
    said = what or env.read(at.stage)
    found: dict[str, bytes | None] = {}
    for host, result in at.together(lambda session: ask(session, said)).items():
        for mark in must(result, host).marks:
            if mark.kind == "warn":
                at.tell(Note(mark.words[0], host, warning=True))
            elif mark.kind in ("content", "absent"):
                found[host] = env.content(mark.words) if mark.kind == "content" else None
    return found


def the_same(stage: Stage, found: Live) -> bytes | None:
    """What every host has. PreflightError, with names only, where they differ."""
    (first, content), *others = found.items()
    for host, other in others:
        if other != content:
            raise PreflightError(
                f"{host} has not the same {stage.environment.file} as {first}; nothing was changed\n"
                + _indented(told(stage, content, other)),
                f"`fab -H {first} env.pull --to FILE`, then `fab env.push FILE`; or choose hosts with -H",
            )
    return content


def values(stage: Stage, content: bytes | None, where: str) -> dict[str, str]:
    """Key -> value; nothing for a format that only the application knows. FailedError with the line that is wrong."""
    if stage.environment.format == "none":
        return {}
    return variables.read(variables.decoded(content or b"", where), stage.environment.format, where)


def told(stage: Stage, before: bytes | None, after: bytes | None) -> list[str]:
    """How one file differs from another: names, never values."""
    if before is None or after is None:
        missing = "there is no file" if before is None else "there is no file any more"
        return [missing, *(told(stage, before or b"", after or b"") if before != after else [])]
    if before == after:
        return ["no difference"]
    if stage.environment.format == "none":
        return ["different, and only the application knows in what"]
    differ = _difference(stage, before, after)
    lines = [
        f"{word:9}{name}"
        for word, names in (("added", differ.added), ("removed", differ.removed), ("changed", differ.changed))
        for name in named(stage, names, before, after)
    ]
    return [*(lines or ["comments, order or spelling only"]), f"{differ.same} unchanged"]


def compared(stage: Stage, before: bytes | None, after: bytes | None) -> dict[str, bool | int | list[str]]:
    """As `told`, for programs: docs/reference/json.md has every field."""
    differ = _difference(stage, before or b"", after or b"")
    return {
        "same": before == after,
        **{
            word: named(stage, names, before, after)
            for word, names in (("added", differ.added), ("removed", differ.removed), ("changed", differ.changed))
        },
        "unchanged": differ.same,
    }


def named(stage: Stage, names: Sequence[str], *contents: bytes | None) -> list[str]:
    """The names that are certainly names; the others once, as one word."""
    found = [variables.nameable((one or b"").decode(errors="replace"), stage.environment.format) for one in contents]
    sure = [name for name in names if any(name in one for one in found)]
    return sure + [HIDDEN] * (len(sure) < len(names))


def change(at: Scene, found: Live, wanted: Change) -> int:
    """The file says `wanted.after` on every host afterwards, or what it said before on every host."""
    stage = at.stage
    values(stage, wanted.after, f"the new {stage.environment.file}")
    _ask_about_lost(stage, found, wanted)
    stale = {host: content for host, content in found.items() if content != wanted.after}
    if not stale and not wanted.restart:
        serves = {host: facts.current for host, facts in at.facts.items()}
        nothing = f"{stage.environment.file} says that already; nothing was changed"
        at.tell(
            PlanFinished(Plan(wanted.verb, stage.name, tuple(serves), ()), 0, nothing, 0.0, facts={}, serves=serves)
        )
        return 0
    plan, sha = _plan(at, stale, wanted)
    lasting = f"{plan.release} is live with it" if wanted.restart else OLD_VALUES
    return at.perform(plan, f"{wanted.said}; {lasting}", sha)


def _plan(at: Scene, stale: Live, wanted: Change) -> tuple[Plan, str]:
    """With a restart the file is a part of a deploy: where the release is not well with it, both go back."""
    stage, version = at.stage, env.version(now())

    def step(host: str, content: bytes | None) -> Step:
        back = env.put_back(stage, version, absent=content is None)
        if wanted.restart:  # beat is handed back before the file is, and would keep the new values
            back += services.hand_over(stage, stage.host(host))
        title = f"Write {stage.environment.file}"
        return Step("variables", title, env.write(stage, wanted.after, version), back, lasting=True)

    write = Phase("variables", "Write the variables", {host: (step(host, content),) for host, content in stale.items()})
    tidy = Step("versions", f"Keep {env.KEEP} versions", env.forget(stage))
    forget = Phase("versions", "Tidy up", dict.fromkeys(stale, (tidy,)), must=False)
    if not wanted.restart:
        return Plan(wanted.verb, stage.name, tuple(at.sessions), (write, forget)), ""
    whole, sha = again(stage, at)
    return replace(whole, verb=wanted.verb, phases=(write, *whole.phases, forget)), sha


def _ask_about_lost(stage: Stage, found: Live, wanted: Change) -> None:
    if stage.environment.format == "none":
        return
    lost: dict[str, None] = {}
    for content in found.values():
        # What cannot be read now has no names to lose: replacing it is how it is put right.
        if content is not None and _is_readable(stage, content):
            differ = _difference(stage, content, wanted.after)
            lost |= dict.fromkeys(named(stage, differ.removed, content))
    if lost:
        one = len(lost) == 1
        confirm(
            f"{', '.join(lost)}: {'this variable goes' if one else f'these {len(lost)} variables go'}. "
            f"A version of the file is kept (fab env.versions).",
            yes=wanted.yes,
        )


def _is_readable(stage: Stage, content: bytes) -> bool:
    try:
        values(stage, content, "")
    except FailedError:
        return False
    return True


def _difference(stage: Stage, before: bytes, after: bytes) -> variables.Difference:
    file = stage.environment.file
    return variables.difference(values(stage, before, file), values(stage, after, file))


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _murmur(event: Event) -> None:
    if isinstance(event, Note):
        err(clean(f"{event.host + ': ' if event.host else ''}{event.text}"))
