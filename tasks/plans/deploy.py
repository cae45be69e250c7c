"""A deploy: prepared on every host, migrated once, switched together, tidied."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..model.config import Host, Stage
from ..model.facts import HostFacts
from ..model.plan import Phase, Plan, Step
from ..model.release import Release
from ..model.shell import Script
from ..remote import build, django, services, source
from ..remote import release as releases
from . import rolling

Say = Callable[[Host], Script]


def plan(
    stage: Stage,
    facts: Mapping[str, HostFacts],
    release: Release,
    who: str,
    batch: int = 0,
    balancers: tuple[Host, ...] = (),
    *,
    fresh: bool = False,
) -> Plan:
    """`facts` names the hosts that take part; every one gets the same commit under the same id.

    `balancers` are told of each batch; `fresh` builds the packages from nothing.
    """
    hosts = [host for host in stage.hosts if host.name in facts]

    def everywhere(name: str, title: str, say: Say, undo: Say | None = None, **more: bool) -> dict[str, Step]:
        steps = {host.name: Step(name, title, say(host), undo(host) if undo else Script(), **more) for host in hosts}
        return {host: step for host, step in steps.items() if step.script}

    def once(steps: dict[str, Step]) -> dict[str, Step]:
        return {host: step for host, step in steps.items() if host == stage.primary.name}

    def phase(name: str, title: str, *rows: Mapping[str, Step], **more: object) -> Phase:
        steps = {host.name: tuple(row[host.name] for row in rows if host.name in row) for host in hosts}
        return Phase(name, title, steps, **more)  # type: ignore[arg-type]

    def was(host: Host) -> str:
        return facts[host.name].current

    def stop(host: Host) -> Script:
        return services.stop(stage, host, release.id)

    id = release.id
    prepare = phase(
        "prepare",
        f"Build {id}",
        everywhere("repair", "Tidy up after earlier runs", lambda host: releases.repair(stage, was(host), who)),
        everywhere("fetch", f"Fetch {release.ref}", lambda _: source.fetch(stage, release)),
        everywhere(
            "checkout", f"Check out {release.sha[:7]}", lambda _: source.checkout(stage, release), _discard(release)
        ),
        everywhere("describe", "Add what runs it", lambda host: build.describe(stage, host, release)),
        everywhere("shared", "Link shared files", lambda _: build.link_shared(stage, release)),
        everywhere(
            "after-checkout", "Hooks after checkout", _hooks(release, "after_checkout", stage.hooks.after_checkout)
        ),
        everywhere("environment", "Install packages", lambda _: build.environment(stage, release, fresh=fresh)),
        everywhere("compile", "Compile", lambda _: build.compile_code(release)),
        _static(stage, release, everywhere),
        everywhere("complete", "Write it to disk", lambda _: build.finish(release), _discard(release)),
    )
    start = phase(
        "boot",
        "Boot it in private",
        everywhere("start", "Start its processes", lambda host: _start(stage, host, id), stop),
        once(everywhere("inspect", "Check the application", lambda _: django.inspect(stage, release))),
        everywhere("boot", "Wait until they are loaded", lambda host: services.await_ready(stage, host, id, "web")),
    )
    migrate = phase(
        "migrate",
        "Migrate the database",
        everywhere("unmigrated", "See that no migration is needed", lambda _: django.same_migrations(stage, release))
        if stage.django.migrate and stage.primary not in hosts
        else {},
        once(
            everywhere(
                "migrate",
                "Migrate",
                lambda _: django.migrate(stage, release),
                lambda _: django.unmigrate(release),
                lasting=True,
            )
            if stage.django.migrate
            else {}
        ),
    )
    check = phase(
        "check",
        "Check it in private",
        everywhere("health", "Ask its health", lambda host: releases.healthy(stage, host, id)),
        everywhere("workers", "Start its workers", lambda host: services.start_workers(stage, host, id), stop),
        everywhere(
            "before-switch", "Hooks before the switch", _hooks(release, "before_switch", stage.hooks.before_switch)
        ),
    )
    switch = phase(
        "switch",
        "Switch",
        everywhere(
            "switch",
            "Switch and prove it",
            lambda host: releases.activate(stage, host, id, was(host), who),
            # beat after it: undone on its own, it would start from the release that is about to go
            lambda host: releases.put_back(id, was(host), who, "bad") + services.hand_over(stage, host),
            seen=True,
        ),
        everywhere("beat", "Hand over beat", lambda host: services.hand_over(stage, host)),
        batch=batch or stage.batch,
        visible=True,
    )
    finish = phase(
        "finish",
        "Tidy up",
        everywhere("retire", "Retire the previous generation", lambda host: _retire(stage, was(host))),
        everywhere("prune", f"Keep {stage.keep_releases} releases", lambda _: releases.prune(stage)),
        everywhere("beat-well", "See beat running", lambda host: services.await_beat(stage, host)),
        everywhere("after-switch", "Hooks after the switch", _hooks(release, "after_switch", stage.hooks.after_switch)),
        must=False,
    )
    return Plan(
        "deploy",
        stage.name,
        tuple(host.name for host in (*hosts, *balancers)),
        (prepare, start, migrate, check, *rolling.drained(stage, switch, balancers), finish),
        release=id,
        note=f"{release.ref} is {release.sha}",
    )


def _discard(release: Release) -> Say:
    return lambda _: build.discard(release)


def _hooks(release: Release, when: str, commands: tuple[str, ...]) -> Say:
    return lambda _: build.hooks(release, when, commands)


def _static(stage: Stage, release: Release, everywhere: Callable[..., dict[str, Step]]) -> dict[str, Step]:
    if not stage.django.collectstatic:
        return {}
    return everywhere(
        "static",
        "Collect static files",
        lambda host: build.static_files(stage, release) if "web" in host.roles else Script(),
    )


def _start(stage: Stage, host: Host, id: str) -> Script:
    """Workers first: Celery asks its neighbours for a whole second, which leaves the processor to the others."""
    return services.start_early(stage, host, id) + services.start(stage, host, id, "web")


def _retire(stage: Stage, previous: str) -> Script:
    return services.retire(previous if stage.keep_warm else "")
