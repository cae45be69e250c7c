"""Media and configuration as a snapshot has them: beside, checked, exchanged; everything undone where it fails."""

from __future__ import annotations

from ..model.config import Stage
from ..model.plan import Phase, Plan, Step
from ..remote import snapshots
from ..remote.machine.proof import GUARDED
from ..remote.snapshots import SERVED, Media, Piece


def media(media: Media, who: str, note: str) -> Plan:
    """Without a snapshot: what the last restore kept is live again."""
    if not media.snapshot:
        back = Step("exchange", "Exchange the folders", media.swap_back(who, note), media.unswap(), lasting=True)
        return _on_primary(media.stage, "restore-media", "Restore media", (back,))
    steps = (
        Step("beside", f"Restore {media.snapshot} beside, check it", media.fill(), media.unswap()),
        Step("exchange", "Exchange the folders", media.swap(who, note), media.unswap(), lasting=True),
        Step("finish", "Remove what an earlier restore kept", media.finish()),
    )
    return _on_primary(media.stage, "restore-media", "Restore media", steps)


def configuration(stage: Stage, pieces: tuple[Piece, ...], tree: str, current: str, who: str, note: str) -> Plan:
    """`pieces` have the files that differ; `tree` is "wanted", or "kept" for the way back."""
    made = [
        Step(one.part.name, f"Put back {one.part.name}", snapshots.make(one, tree), snapshots.unmake(one), lasting=True)
        for one in pieces
    ]
    steps = [Step("keep", "Keep what is live", snapshots.keep(pieces), snapshots.given_up(), lasting=True)]
    steps += [step for step in made if step.name not in GUARDED]
    if current and any(one.part.name in SERVED for one in pieces):
        steps.append(Step("switch", "Restart the services with it", snapshots.restart(stage, current), seen=True))
    steps.append(Step("health", "Ask the site", snapshots.answers(stage, current)))
    phases = [("restore", "Restore configuration", steps)]
    # What undoes itself unless a second connection comes in does not wait for services, and is found by its phase.
    phases += [(step.name, step.title, [step]) for step in made if step.name in GUARDED]
    kept = Step("kept", "Record it, keep the way back", snapshots.restored(stage, who, note))
    phases.append(("record", "Record it", [kept]))
    host = stage.primary.name
    return Plan(
        "restore-config",
        stage.name,
        (host,),
        tuple(Phase(name, title, {host: tuple(steps)}, visible=True) for name, title, steps in phases),
        release=current,
    )


def settled(stage: Stage, pieces: tuple[Piece, ...]) -> Plan:
    """What a run that died had begun is taken back; `pieces` have those files."""
    steps = (
        *(Step(one.part.name, f"Take back {one.part.name}", snapshots.unmake(one)) for one in pieces),
        Step("services", "Let services run with it", snapshots.given_up()),
    )
    return _on_primary(stage, "restore-config", "Take back what a run that died had begun", steps)


def _on_primary(stage: Stage, verb: str, title: str, steps: tuple[Step, ...]) -> Plan:
    host = stage.primary.name
    return Plan(verb, stage.name, (host,), (Phase("restore", title, {host: steps}),))
