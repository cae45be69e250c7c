"""A restore: beside the live database, checked, swapped by rename; the schema brought to the code; the site asked."""

from __future__ import annotations

from ..model.backup import Saved
from ..model.config import Stage
from ..model.plan import Phase, Plan, Step
from ..model.shell import script
from ..remote import backup


def plan(
    stage: Stage, current: str, who: str, saved: Saved | None, *, run: str, migrate: bool = False, kept: str = ""
) -> Plan:
    """On the host that migrates. `saved` None: back to `kept`, a database. `run` is a word of its own."""
    host, undo = stage.primary, backup.unswap(run, who)
    if saved:
        title, said = f"Restore {saved.name} beside, check it, swap", backup.restore(run, saved, who)
    else:
        title, said = f"Swap back {kept}", backup.swap_back(run, kept, who)
    steps = [Step("restore", title, said, undo, lasting=True)]
    if stage.database.engine == "sqlite":  # a file that somebody has open cannot be replaced
        stop, start = script(("stop_all",)), script(("start_all",))
        steps.insert(0, Step("stop", "Stop what uses it", stop, start))
        steps.append(Step("start", "Start it again", start, stop, seen=True))
    if migrate or not saved:  # what was kept does not know what a deploy migrated since
        steps.append(Step("migrate", "Migrate it to the live release", script(("migrate_again", current)), seen=True))
    steps.append(Step("health", "Ask the site", backup.well(run, stage, current), seen=True))
    phase = Phase("restore", "Restore the database", {host.name: tuple(steps)})
    return Plan("restore-db", stage.name, (host.name,), (phase,), release=current)


def cut(stage: Stage) -> str:
    """What users will feel of the swap where pgBouncer cannot be told to hold their requests; "" elsewhere."""
    host, here = stage.database_host, stage.primary
    if not stage.has_bouncer or host == here:
        return ""
    told = f"pgBouncer runs on {host.name}, and only on {here.name}, which swaps, could it be told to hold requests"
    return f"{told}: connections through it are cut in the swap, and what comes in that moment fails"
