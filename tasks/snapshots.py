"""`fab restore-media`, `restore-config`: files as they were at a date, checked before they are live, and a way back."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

import invoke

from ._operator import confirm, load_stage, now, wanted, who
from ._scene import Scene, must, scene, show_plan, talk
from ._task import task
from .engine.execute import ask, execute
from .model.config import Stage
from .model.errors import FailedError, PreflightError, UsageError
from .model.event import Note
from .model.machine import Drift, Thing
from .model.moment import FORMS, Moment, at_or_before, local
from .model.plan import Plan
from .model.shell import Script
from .model.snapshot import Change, Names, Snapshot
from .plans import snapshots as restoring
from .provision import identified, prove_the_way_in
from .remote import snapshots, variables
from .remote.machine.things import parse
from .remote.snapshots import Media, Piece
from .report import words
from .report.safe import clean

HOURS = 12 * 3600
"""Seconds fetching may take."""
UNDO = "go back to what the last restore kept"
PAGE = "docs/how-to/restore-files.md"


@task(
    help={
        "date": FORMS,
        "undo": UNDO,
        "path": "only this folder of shared_dirs, or one inside of it (default: all of shared_dirs)",
        "leave_out": "leave out devices, links that lead away and the like, instead of refusing",
    }
)
def restore_media(
    context: invoke.Context,
    stage: str = "",
    date: str = "",
    undo: bool = False,
    path: str = "",
    leave_out: bool = False,
    wait: str = "",
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Put uploads back as they were at a date: beside, checked, exchanged; --undo exchanges back."""
    then = wanted("restore-media", date, undo=undo)
    here = _stage(stage)
    folders = _folders(here, path)
    run, at_once = token_hex(4), yes or dry_run
    with talk(json=json) as tell, scene(context, here, tell, as_admin=True, among=(here.primary,)) as at:
        identified(at)
        here = at.stage
        if not dry_run:
            at.lock(f"restore-media {date or '--undo'}", wait)
        at.survey()
        if then is None:
            media, done = _media_kept(at, Media(here, run, now().isoformat()), yes=at_once)
        else:
            chosen = _chosen(at, then)
            media = Media(here, run, now().isoformat(), folders, chosen.id, leave_out)
            done = _media_then(at, media, chosen, yes=at_once)
        plan = restoring.media(media, who(), done)
        return (
            show_plan(plan, json=json)
            if dry_run
            else at.perform(plan, f"{done}; `fab restore-media --undo` goes back", timeout=HOURS)
        )


def _stage(name: str) -> Stage:
    """UsageError where there is nothing to restore from."""
    here = load_stage(name)
    if here.manager != "systemd":
        raise UsageError(f"stage {here.name} copies no files on this machine", PAGE)
    return here


def _folders(stage: Stage, path: str) -> tuple[str, ...]:
    if not path:
        if not stage.shared_dirs:
            raise UsageError("shared_dirs is empty: there is no folder to put back", PAGE)
        return stage.shared_dirs
    parts = path.strip("/").split("/")
    if ".." in parts or "." in parts or not any(_is_in("/".join(parts), one) for one in stage.shared_dirs):
        raise UsageError(
            f"{words.clean(path)} is not in shared_dirs", f"one of {', '.join(stage.shared_dirs)}, or inside"
        )
    return ("/".join(parts),)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _chosen(at: Scene, then: Moment) -> Snapshot:
    """The newest at or before the moment; says which and how old."""
    told = _answer(at, snapshots.listing(at.stage), timeout=180)["snapshots"]
    found = [Snapshot.from_json(one) for one in told]
    chosen = at_or_before(found, then)
    if chosen is None:
        oldest = min((one.taken for one in found), default=None)
        has = f"the oldest is of {local(oldest)}" if oldest else "there is none at all"
        raise PreflightError(f"there is no snapshot at or before {then.said}; {has}", "fab backup takes one")
    hours = (now() - chosen.taken).total_seconds() / 3600
    at.tell(Note(f"for {then.said}: snapshot {_named(chosen)}, {hours:.1f} h ago"))
    if len(at.stage.app_hosts) > 1:
        at.tell(Note(f"this is about {at.stage.primary.name}, whose files are in backups: other hosts keep theirs"))
    return chosen


def _named(snapshot: Snapshot) -> str:
    return f"{snapshot.id} of {local(snapshot.taken)}"


def _answer(at: Scene, what: Script, timeout: float = HOURS) -> dict[str, Any]:
    """What the program on the server answers. PreflightError with its own words: nothing live was touched by then."""
    result = at.said(what, timeout)
    if not result.ok and not result.lost:
        raise PreflightError(*(words.clean(one) for one in result.error))
    told: dict[str, Any] = json_module.loads(must(result, at.stage.primary.name).facts()["snapshot"])
    return told


# --- media


def _media_then(at: Scene, media: Media, chosen: Snapshot, *, yes: bool) -> str:
    told = _answer(at, media.look())
    changes = [Change.from_json(folder, one) for folder, one in told["folders"].items()]
    left_out = Names.from_json(told["left_out"])
    lines = [f"Restore {', '.join(media.folders)} of {_named(chosen)}? What is live is kept for --undo."]
    lines += [line for change in changes for line in _shown(change)]
    lines += [f"  left out: {_some(left_out)}"] if left_out.count else []
    _asked_about(at, lines, yes=yes)
    return f"{', '.join(media.folders)} as in snapshot {_named(chosen)}"


def _asked_about(at: Scene, lines: list[str], *, yes: bool) -> None:
    """What changes is shown either way: in the question, or told."""
    for line in lines[1:] if yes else ():
        at.tell(Note(line))
    confirm("\n".join(lines), yes=yes)


def _shown(change: Change) -> list[str]:
    size = f"{change.files:,} files, {change.size:,} bytes in the snapshot"
    what = (("come back", change.added), ("go", change.removed), ("change", change.changed))
    return [f"  {change.folder}: {size}", *(f"    {names.count:,} {verb}{_some(names)}" for verb, names in what)]


def _some(names: Names) -> str:
    more = ", ..." if names.count > len(names.first) else ""
    return f": {', '.join(words.clean(one, 100) for one in names.first)}{more}" if names.first else ""


def _media_kept(at: Scene, media: Media, *, yes: bool) -> tuple[Media, str]:
    kept = _answer(at, media.kept())
    if not kept:
        raise PreflightError("no restore has kept any folder", "fab restore-media --date latest")
    folders, until = tuple(kept["folders"]), f"{words.moment(kept['until']):%Y-%m-%d %H:%M:%S} UTC"
    confirm(f"Go back to {clean(', '.join(folders))} as live until {until}? What is live now is kept in turn.", yes=yes)
    return Media(media.stage, media.run, media.now, folders), f"{', '.join(folders)} as live until {until}"


# --- configuration


@task(help={"date": FORMS, "undo": UNDO}, secret=True)
def restore_config(
    context: invoke.Context,
    stage: str = "",
    date: str = "",
    undo: bool = False,
    wait: str = "",
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Put variables, nginx, units and the like back as they were at a date: checked, in use or put back; --undo."""
    then = wanted("restore-config", date, undo=undo)
    here = _stage(stage)
    with talk(json=json) as tell, scene(context, here, tell, as_admin=True, among=(here.primary,)) as at:
        facts = identified(at)
        here = at.stage
        if not dry_run:
            at.lock(f"restore-config {date or '--undo'}", wait)
        at.survey()
        every = snapshots.pieces(here, here.primary, facts[here.primary.name])
        _settle(at, every, dry_run=dry_run)
        try:
            tree, note = _fetched(at, every, then) if then else _kept_configuration(at)
            found = _found(at, every, tree)
            pieces = snapshots.changed(every, found)
            for path in snapshots.missing(every, found) if then else ():
                tell(Note(f"{path} was not there at that time: it is left as it is", warning=True))
            if not pieces:
                tell(Note("nothing to do: every file is as it was then"))
                return 0
            _ask_about(at, pieces, found, tree, yes=yes or dry_run)
            current = at.facts[here.primary.name].current
            plan = restoring.configuration(here, pieces, tree, current, who(), note)
            if dry_run:
                return show_plan(plan, json=json)
            return _carried_out(at, plan, note)
        finally:
            _tidy(at)


def _settle(at: Scene, every: tuple[Piece, ...], *, dry_run: bool) -> None:
    """What a run that died had begun is taken back first. FailedError where that does not work."""
    said = at.answer(snapshots.state())
    begun = {mark.words[0] for mark in said.marks if mark.kind == "begun"}
    if not begun:
        return
    at.tell(
        Note(
            "a restore of the configuration was cut off half-way: it is taken back first",
            at.stage.primary.name,
            warning=True,
        )
    )
    if dry_run:
        return
    ending = execute(restoring.settled(at.stage, snapshots.only(every, begun)), at.sessions, at.tell)
    if ending.code:
        raise FailedError(ending.message, ending.hint)


def _fetched(at: Scene, every: tuple[Piece, ...], then: Moment) -> tuple[str, str]:
    """The tree on the server that has the files, and what it is."""
    chosen = _chosen(at, then)
    _answer(at, snapshots.extract(at.stage, every, chosen.id))
    return "wanted", f"configuration as in snapshot {_named(chosen)}"


def _kept_configuration(at: Scene) -> tuple[str, str]:
    kept = at.answer(snapshots.state()).facts().get("kept")
    if not kept:
        raise PreflightError("no restore has kept a configuration", "fab restore-config --date latest")
    return "kept", f"configuration as it was until {kept}"


def _found(at: Scene, every: tuple[Piece, ...], tree: str) -> Mapping[str, str]:
    said = at.answer(snapshots.looks(every, tree))
    return parse((mark.kind, *mark.words) for mark in said.marks)


def _ask_about(at: Scene, pieces: tuple[Piece, ...], found: Mapping[str, str], tree: str, *, yes: bool) -> None:
    from .report import drift as page

    (host,) = at.sessions
    shown = tuple(
        Drift(piece.part.name, Thing(file.name, (), _then(then), Script()), now)
        for piece in pieces
        for file in piece.files
        if not file.secret
        for then, now in (snapshots.then_and_now(file, found),)
    )
    hidden = [file.path for piece in pieces for file in piece.files if file.secret]
    lines = [page.to_text({host: shown})] if shown else []
    for path in hidden:
        lines.append(f"  file {path}: {_told(at, path, tree)}")
    count = sum(len(piece.files) for piece in pieces)
    first = f"These {count} files will be replaced; what is live is kept for --undo:"
    _asked_about(at, [first, *(line for text in lines for line in text.splitlines())], yes=yes)


def _then(text: str) -> str:
    return "" if text == snapshots.ABSENT else text


def _told(at: Scene, path: str, tree: str) -> str:
    """Of variables, their names; of anything else that nobody is to see, nothing."""
    here = at.stage
    if not here.environment.file or path != str(here.layout.shared / here.environment.file):
        return "differs (its content is not shown)"
    dialect = here.environment.format
    if dialect == "none":
        return "differs (only the application knows how it is written)"
    then = _variables(at, dialect, tree)
    try:
        now = _variables(at, dialect, "")
    except FailedError as problem:
        return f"the live one cannot be read ({problem.message}); {len(then)} variables come back"
    difference = variables.difference(now, then)
    kinds = (("come back", difference.added), ("go", difference.removed), ("change", difference.changed))
    return "; ".join(f"{verb}: {', '.join(names)}" for verb, names in kinds if names) or "comments or order differ"


def _variables(at: Scene, dialect: str, tree: str) -> dict[str, str]:
    """FailedError with the line of what the application could not read: before it is put anywhere."""
    said = at.answer(snapshots.read(at.stage, tree))
    (found,) = said.returned
    text = found.value if found else ""
    return variables.read(text, dialect, f"{at.stage.environment.file} of the snapshot" if tree else "the live file")


def _carried_out(at: Scene, plan: Plan, note: str) -> int:
    code = at.perform(plan, f"{note}; `fab restore-config --undo` goes back", timeout=HOURS)
    if not code:
        prove_the_way_in(at, plan)
        at.tell(
            Note("where it differs from releases.toml, `fab provision` would change it again: fab provision --check")
        )
    return code


def _tidy(at: Scene) -> None:
    """Best effort: the next run does it as well."""
    for session in at.sessions.values():
        if session.alive:
            ask(session, snapshots.drop())


TASKS = ("restore_media", "restore_config")
