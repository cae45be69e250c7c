"""`fab backup`, `backups`, `restore-db`, `drill`: the database as it was, checked before it is live, and a way back."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any

import invoke

from ._archive import at_that_second
from ._operator import confirm, load_stage, now, strong, wanted, who
from ._scene import Scene, scene, show_plan, talk
from ._task import task
from .model.backup import KeptDatabase, LeftOut, Saved
from .model.config import Stage
from .model.errors import PreflightError, UsageError
from .model.event import Event, Note
from .model.files_copy import FilesCopy, told_of_files
from .model.moment import FORMS, Moment, age, at_or_before, local
from .model.plan import Plan
from .model.standing import Standing
from .plans import restore as restoring
from .remote import archive as archives
from .remote import backup as saving
from .remote import retention
from .report.safe import clean, out, out_json

HOURS = 6 * 3600
"""Seconds a dump or a restore may take."""


@task()
def backup(context: invoke.Context, stage: str = "", json: bool = False) -> None:
    """Take a backup of the database now: written aside, read whole, then named; old ones go by the policy."""
    here = load_stage(stage)
    with talk(json=json) as tell, scene(context, here, tell, among=(here.primary,)) as at:
        said = json_module.loads(at.answer(saving.take(here), HOURS).facts()["backup"])
        tell(Note(f"{said['name']}: {said['rows']:,} rows, {said['bytes']:,} bytes, read whole"))
        _tell_limits(tell, said)
        for old in said["dropped"]:
            tell(Note(f"{old} removed: not kept by [backup] daily, weekly or monthly"))
        if here.manager == "systemd":
            copied = FilesCopy.from_json(at.answer(saving.copy_files(here), HOURS).facts().get("copied", ""))
            for line, is_warning in told_of_files(here.backup, copied):
                tell(Note(line, warning=is_warning))


@task()
def backups(context: invoke.Context, stage: str = "", json: bool = False) -> None:
    """The backups there are: how old, how big, whether restored and found right, what keeps each and what goes next."""
    from .report import archive as archive_page
    from .report import backups as page

    here = load_stage(stage)
    with talk() as tell, scene(context, here, tell, among=(here.primary,)) as at:
        saved, facts = _listed(at)
        standing, fates = Standing.from_facts(here.backup, facts), retention.fates(saved, here.backup, now())
        archive = archives.parse(facts)
        if json:
            told = page.to_json(saved, saving.kept(facts), standing, fates)
            out_json(told | ({"archive": archive_page.to_json(archive)} if archive else {}))
        else:
            out(page.to_text(saved, saving.kept(facts), now(), strong(), standing, fates).rstrip("\n"), styled=True)
            if archive:
                out(archive_page.to_text(archive, now(), strong()), styled=True)


@task(
    help={
        "date": FORMS,
        "undo": "swap back what the last restore kept",
        "kept": "with --undo: the name of another kept database, as `fab backups` lists them",
        "to_scratch": "restore beside and check, but do not swap: look at it, then drop it",
    }
)
def restore_db(
    context: invoke.Context,
    stage: str = "",
    date: str = "",
    undo: bool = False,
    kept: str = "",
    to_scratch: bool = False,
    wait: str = "",
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Put the database back as it was at a date: beside, checked, swapped; --undo swaps back."""
    if kept and not undo:
        raise UsageError("--kept goes with --undo", "fab restore-db --undo --kept NAME")
    then = wanted("restore-db", date, undo=undo)
    here = load_stage(stage)
    with talk(json=json) as tell, scene(context, here, tell, among=(here.primary,)) as at:
        if not dry_run and not to_scratch:
            at.lock(f"restore-db {date or '--undo'}", wait)
        current = _settled(at)
        saved, facts = _listed(at)
        if not to_scratch and (cut := restoring.cut(here)):
            tell(Note(cut, warning=True))
        if then is None:
            chosen_back = _kept(saving.kept(facts), kept)
            plan, done = _back(here, current, chosen_back, yes=yes or dry_run)
        else:
            chosen = (
                at_that_second(at, saved, facts, then, take=to_scratch or not dry_run)
                if here.is_archived
                else _chosen(at, saved, then)
            )
            if to_scratch:
                return _to_scratch(at, chosen)
            plan, done = _forth(at, current, chosen, yes=yes or dry_run)
        return show_plan(plan, json=json) if dry_run else at.perform(plan, done, timeout=HOURS)


def _tell_limits(tell: Callable[[Event], None], said: Mapping[str, Any]) -> None:
    """What a restore of it would be without; it is a backup all the same."""
    from .report import backups as page

    if said.get("untried"):
        tell(Note(f"whether all of it can be restored was not tried: {said['untried']}", warning=True))
    if lines := page.without(LeftOut.from_json(said.get("left_out"))):
        tell(Note("a restore of it would be without (missing privileges):", warning=True))
        for line in lines:
            tell(Note(line, warning=True))


def _settled(at: Scene) -> str:
    """The live release. PreflightError while it is undecided which one that is."""
    at.survey()
    (facts,) = at.facts.values()
    if not facts.current or facts.undecided:
        raise PreflightError("it is undecided what is live: an earlier run was cut off", "fab repair, or fab deploy")
    return facts.current


def _kept(found: tuple[KeptDatabase, ...], name: str) -> KeptDatabase:
    """The one of that name, or the last that was live. PreflightError where there is none."""
    ways = [one for one in found if one.is_way_back]
    chosen = next((one for one in ways if one.name == name or not name), None)
    if chosen is None:
        there = ", ".join(clean(one.name) for one in ways)
        reason = f"no restore has kept a database{f' {name}' if name else ''}"
        raise PreflightError(reason, f"there are {there}" if there else "fab backups")
    return chosen


def _back(here: Stage, current: str, kept: KeptDatabase, *, yes: bool) -> tuple[Plan, str]:
    question = f"Swap back {clean(kept.name)}, live until {local(kept.at)}?"
    confirm(f"{question} What is live now is kept in turn; what a deploy migrated since is migrated.", yes=yes)
    plan = restoring.plan(here, current, who(), None, run=token_hex(4), kept=kept.name)
    return plan, f"{kept.name} is the live database again"


def _forth(at: Scene, current: str, chosen: Saved, *, yes: bool) -> tuple[Plan, str]:
    if not chosen.size:  # the plan alone is wanted, and the archive was not asked for it yet
        return restoring.plan(at.stage, current, who(), chosen, run=token_hex(4)), ""
    found = json_module.loads(at.answer(saving.preview(chosen), HOURS).facts()["restore"])
    missing = _to_migrate(chosen, found)
    confirm(_question(chosen, found, missing), yes=yes)
    done = f"the database is {chosen.name} of {local(chosen.taken)}; `fab restore-db --undo` swaps back"
    return restoring.plan(at.stage, current, who(), chosen, run=token_hex(4), migrate=bool(missing)), done


def _chosen(at: Scene, saved: tuple[Saved, ...], then: Moment) -> Saved:
    """The newest at or before the moment; says which and how much is not in it."""
    chosen = at_or_before(saved, then)
    if chosen is None:
        oldest = f"the oldest is of {local(saved[-1].taken)}" if saved else "there is none at all"
        raise PreflightError(f"there is no backup at or before {then.said}; {oldest}", "fab backups")
    at.tell(Note(f"for {then.said}: {chosen.kind} {chosen.name}, taken {local(chosen.taken)}"))
    at.tell(Note(f"what was written since then, {age(now() - chosen.taken)} ago, is not in it", warning=True))
    return chosen


def _to_scratch(at: Scene, chosen: Saved) -> int:
    from .report import backups as page

    done = json_module.loads(at.answer(saving.rehearse(chosen, keep=True), HOURS).facts()["drill"])
    for line in page.without(LeftOut.from_json(done.get("left_out"))):
        at.tell(Note(f"not restored (missing privileges):{line[1:]}", warning=True))
    at.tell(Note(f"restored as {done['scratch']}, {done['rows']:,} rows, checked; drop it when you have seen enough"))
    return 0


@task(help={"name": "of a backup (default: the newest)"})
def drill(context: invoke.Context, stage: str = "", name: str = "", json: bool = False) -> None:
    """Prove a backup: restore it beside the live database, check it, drop it, say how long that took."""
    from .report import backups as page

    here = load_stage(stage)
    with talk(json=json) as tell, scene(context, here, tell, among=(here.primary,)) as at:
        saved, _ = _listed(at)
        chosen = next((one for one in saved if one.name == name or not name), None)
        if chosen is None:
            raise PreflightError(f"there is no backup{f' {name}' if name else ''}", "fab backup takes one")
        done = json_module.loads(at.answer(saving.rehearse(chosen, keep=False, by=who()), HOURS).facts()["drill"])
        missing = page.named(LeftOut.from_json(done.get("left_out")))
        verified = f"verified, without {missing}" if missing else "verified"
        tell(Note(f"{chosen.name}: {verified}: {done['rows']:,} rows restored in {done['seconds']} s (RTO)"))
        tell(Note(f"what was written in the last {age(now() - chosen.taken)} is not in it (RPO)"))
        for line in done.get("warnings", ()):
            tell(Note(clean(line), warning=True))


@task(help={"name": "of a kept database, as `fab backups` lists them"})
def drop_kept(
    context: invoke.Context, name: str, stage: str = "", wait: str = "", yes: bool = False, json: bool = False
) -> None:
    """Drop a database that a restore kept or --to-scratch made, when nobody needs it any more."""
    here = load_stage(stage)
    with talk(json=json) as tell, scene(context, here, tell, among=(here.primary,)) as at:
        at.lock(f"drop-kept {name}", wait)
        _, facts = _listed(at)
        chosen = next((one for one in saving.kept(facts) if one.name == name), None)
        if chosen is None:
            raise PreflightError(f"no restore has kept a database {name}", "fab backups")
        confirm(f"Drop {name}, kept {local(chosen.at)}, {chosen.size:,} bytes? It cannot be brought back.", yes=yes)
        at.answer(saving.drop_kept(name, who()), HOURS)
        tell(Note(f"{name} is dropped"))


def _listed(at: Scene) -> tuple[tuple[Saved, ...], dict[str, str]]:
    said = at.answer(saving.listing())
    return saving.parse((mark.kind, *mark.words) for mark in said.marks), said.facts()


def _to_migrate(chosen: Saved, found: Mapping[str, Any]) -> list[str]:
    """The migrations to run after the restore. PreflightError where the live release is older than the backup."""
    if found["ahead"]:
        raise PreflightError(
            f"{chosen.name} has {clean(', '.join(found['ahead']))}, which the live release does not know",
            f"deploy a release that does first (it was taken by {chosen.release}), or restore it with --to-scratch",
        )
    return list(found["missing"])


def _question(chosen: Saved, found: Mapping[str, Any], missing: list[str]) -> str:
    from .report import backups as page

    rows = found["newer_rows"]
    lines = [f"Restore {clean(chosen.name)}? The live database is kept, and `fab restore-db --undo` brings it back."]
    if found.get("gone"):
        lines = [
            f"Restore {clean(chosen.name)}? The live database is gone: it is made anew, as the backup says it was."
        ]
    lines += [f"  {clean(table)}: {count:+,} rows live against the backup" for table, count in list(rows.items())[:20]]
    lines += [f"  ... and {len(rows) - 20} more tables"] if len(rows) > 20 else []
    lines += ["  every table has as many rows as the backup"] if not rows and not found.get("gone") else []
    left_out = LeftOut.from_json(found.get("left_out"))
    lines += [f"  not restored (missing privileges):{clean(line[1:])}" for line in page.without(left_out)]
    lines += [f"  not restored (missing privileges): {clean(one)}" for one in found.get("not_carried", ())]
    if missing:
        lines.append(f"  it is older than the live release: {clean(', '.join(missing))} will be migrated right after")
    return "\n".join(lines)


TASKS = ("backup", "backups", "restore_db", "drop_kept", "drill")
