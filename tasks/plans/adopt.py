"""An adoption: what runs from a flat checkout is copied into a release, started beside it, switched to, and retired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..model.config import Host, Stage
from ..model.machine import Part
from ..model.plan import Phase, Plan, Step
from ..model.release import Release
from ..model.shell import Script, script
from ..remote import adopt, build, django, files, services
from ..remote import release as releases
from ..remote.adopt import Flat
from . import provision


def early(stage: Stage, host: Host, parts: Sequence[Part]) -> tuple[Part, ...]:
    """What the server needs beforehand, without anything that the old services would notice.

    Their variables, their uploads, a unit that has the name of one of ours, and everything from nginx on come later.
    """
    names = [part.name for part in parts]
    before = parts[: names.index("nginx")] if "nginx" in names else parts
    uploads = {f"folder {stage.layout.shared / one}" for one in stage.shared_dirs}
    taken = {f"file /etc/systemd/system/{unit}" for unit in stage.provision.adopt_services}
    late = uploads | taken
    return tuple(
        replace(part, things=tuple(one for one in part.things if one.name not in late))
        if part.name != "units"
        else _units(stage, host, part, late)
        for part in before
        if part.name != "environment"
    )


def _units(stage: Stage, host: Host, part: Part, late: set[str]) -> Part:
    """Judged without what is not there yet."""
    paths = [path for path in files.units(stage, host) if f"file {path}" not in late]
    things = tuple(one for one in part.things if one.name not in late)
    return replace(part, things=things, check=script(("checked_with", "units_verified", *paths)))


def plan(
    stage: Stage, host: Host, flat: Flat, parts: Sequence[Part], begin: Sequence[Phase], release: Release, who: str
) -> Plan:
    """`begin`: the phases that make the early parts. Where an earlier run got `current` live, it goes on from there."""

    def phase(name: str, title: str, *steps: Step, **more: bool) -> Phase:
        return Phase(name, title, {host.name: tuple(step for step in steps if step.script)}, **more)

    def deployer(what: Script) -> Script:
        return adopt.as_deployer(host, what)

    id = flat.live or release.id
    stop = deployer(services.stop(stage, host, id))
    copy = phase(
        "copy",
        f"Copy what runs into {id}",
        Step(
            "repair",
            "Tidy up after earlier runs",
            deployer(script(("withdraw_undecided", who)) + releases.repair(stage, "", who)),
        ),
        Step(
            "freeze",
            "Keep deploys away meanwhile",
            deployer(script(("freeze", adopt.FROZEN))),
            deployer(script(("unfreeze",))),
        ),
        Step("code", "Copy the code", adopt.code(stage, host, flat, release), deployer(build.discard(release))),
        Step("describe", "Add what runs it", deployer(build.describe(stage, host, release))),
        Step(
            "shared",
            "Share uploads with it",
            adopt.shared(stage, host, flat) + deployer(build.link_shared(stage, release)),
            adopt.leave_shared(stage),
        ),
        Step("environment", "Copy the packages", adopt.environment(stage, host, flat, release)),
        Step("compile", "Compile", deployer(build.compile_code(release))),
        Step("static", "Keep static files", deployer(adopt.static(stage, release))),
        Step("complete", "Write it to disk", deployer(build.finish(release)), deployer(build.discard(release))),
    )
    boot = phase(
        "boot",
        "Boot it in private",
        Step("start", "Start its processes", deployer(services.start(stage, host, id, "web")), stop),
        Step("inspect", "Check the application", deployer(django.inspect(stage, release))),
        Step("boot", "Wait until they are loaded", deployer(services.await_ready(stage, host, id, "web"))),
        Step("health", "Ask its health", deployer(releases.healthy(stage, host, id))),
        Step("workers", "Start its workers", deployer(services.start_workers(stage, host, id)), stop),
    )
    publish = phase(
        "publish",
        "Publish it",
        Step(
            "publish",
            "Make it current",
            deployer(script(("activate", id, "", "retired", "", who, "adopted"))),
            deployer(releases.put_back(id, "", who, "bad")),
        ),
    )
    again = phase(
        "boot",
        "Boot it",
        Step(
            "start",
            "Start what does not run",
            deployer(services.start(stage, host, id, "web", "worker") + services.await_ready(stage, host, id, "web")),
        ),
    )
    nginx = [part for part in parts if part.name == "nginx" and services.names(stage, host, "web")]
    door = phase(
        "door",
        "Let users in",
        *(Step("nginx", "Put the new site in place and prove it", adopt.site(stage, host, one, id)) for one in nginx),
        visible=True,
    )
    built = (again,) if flat.live else (copy, boot, publish)
    note = f"{stage.provision.adopt} becomes {id}"
    return Plan("adopt", stage.name, (host.name,), (*begin, *built, door), release=id, note=note)


def retire(stage: Stage, host: Host, flat: Flat, parts: Sequence[Part], id: str) -> Plan:
    """The old services end. Nothing of it is undone: users are served by the release, and a run that fails goes on."""

    def deployer(what: Script) -> Script:
        return adopt.as_deployer(host, what)

    beats = services.names(stage, host, "beat")
    carried = adopt.carried(stage, beats)
    ours = files.units(stage, host)
    named = [unit for unit in stage.provision.adopt_services if f"/etc/systemd/system/{unit}" in ours]
    asides = Script(tuple(("unit_aside", unit) for unit in named))
    units = next(provision.made(part) for part in parts if part.name == "units")
    steps = (
        Step("beat", "Stop the old beat", adopt.retire(flat.units_of("beat"))),
        Step("units", "Install units", carried + asides + units),
        Step("new-beat", "Start the one beat", deployer(services.hand_over(stage, host))),
        Step("drain", "Wait for old requests", script(("await_old_requests",))),
        Step("old", "Stop the old services", adopt.retire(flat.units_of("web", "worker"))),
        Step("beat-well", "See beat running", deployer(services.await_beat(stage, host))),
        Step("owned", "Give uploads to the new services", adopt.owned(stage)),
        Step("done", "Record it", deployer(script(("adoption_done", id, stage.provision.adopt)))),
    )
    phase = Phase("retire", "Retire what served before", {host.name: tuple(step for step in steps if step.script)})
    return Plan("adopt", stage.name, (host.name,), (phase,), release=id)
