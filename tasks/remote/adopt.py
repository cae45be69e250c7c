"""A flat checkout that becomes a release: what is looked at, what is copied, what is handed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..model import naming
from ..model.call import Call, call
from ..model.config import Host, Stage, megabytes
from ..model.machine import Part
from ..model.release import Release
from ..model.shell import Line, Script, script
from ..server import adopt
from . import health


@dataclass(frozen=True)
class Flat:
    """What a look at a server with a flat checkout found."""

    facts: Mapping[str, str]
    problems: tuple[tuple[str, str], ...] = ()
    """(what stands in the way, what to do about it)."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Old unit -> web, worker or beat; without those that are ours by now."""
    user: str = "root"
    """Account the old services run as."""

    @property
    def adopted(self) -> str:
        """The release it became, when all of the adoption is done."""
        return self.facts.get("adopted", "").split(" ")[0]

    @property
    def live(self) -> str:
        """The release it became, when an earlier run went as far as that."""
        ours = self.facts.get("ref") == REF and self.facts.get("state") == "live"
        return self.facts.get("live", "") if ours else ""

    def units_of(self, *kinds: str) -> tuple[str, ...]:
        return tuple(name for name, kind in self.units.items() if kind in kinds)


REF = "adopted"
"""What `fab releases` shows in place of a branch: it is what ran, whatever git says."""
LAYOUT = ("current", "releases", "staging", "shared", "environments", "backups", "repo.git", ".releases")
"""What lies in deploy_to."""
FROZEN = "an adoption is under way: fab provision --adopt"


def place(stage: Stage) -> PurePosixPath:
    """What becomes the release: the checkout, or its sub_directory."""
    return PurePosixPath(stage.provision.adopt) / stage.sub_directory


def files_of(stage: Stage) -> tuple[str, ...]:
    named = [*stage.shared_files, *([stage.environment.file] if stage.environment.file else [])]
    return tuple(dict.fromkeys(named))


def look(stage: Stage, host: Host) -> Script:
    """Answers facts and problems; changes nothing."""
    checkout, units = stage.provision.adopt, stage.provision.adopt_services
    names, here = " ".join(units), place(stage)
    calls: list[Line] = [("look_adoption", host.user, checkout, here, *units)]
    calls += [("look_old_unit", unit, checkout, host.user) for unit in units]
    calls += [("look_old_folder", here, one) for one in stage.shared_dirs]
    calls += [("look_old_file", here, one, checkout) for one in files_of(stage)]
    calls += [
        ("look_old_writes", here, names, *stage.shared_dirs),
        ("look_old_sites", checkout, stage.domain, "files" if stage.tls.certificate == "files" else ""),
        ("look_others", checkout, names),
        ("look_room", here, megabytes(stage.minimum_free), *stage.shared_dirs),
    ]
    return Script(tuple(calls))


def parse(marks: Iterable[tuple[str, ...]]) -> Flat:
    """(kind, word, ...) as a session heard them. What was adopted already has no problems."""
    facts: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for mark in marks:
        if mark[0] == "fact":
            facts[mark[1]] = mark[2]
        elif mark[0] == "problem":
            problems.append((mark[1], mark[2]))
    found = {name.removeprefix("unit "): text.split() for name, text in facts.items() if name.startswith("unit ")}
    units = {name: kind for name, (_, kind) in found.items() if kind != "ours"}
    users = [user for name, (user, kind) in found.items() if name in units and kind == "web"]
    return Flat(facts, () if facts.get("adopted") else tuple(problems), units, (*users, "root")[0])


def as_deployer(host: Host, what: Script) -> Script:
    """The same calls, made by the account that deploys."""
    return Script(
        tuple(call.by(host.user) if isinstance(call, Call) else ("as_account", host.user, *call) for call in what.calls)
    )


def code(stage: Stage, host: Host, flat: Flat, release: Release) -> Script:
    """As it runs, whatever git says."""
    here, venv = place(stage), PurePosixPath(flat.facts["venv"])
    left_out = [".git", ".venv", ".release", "release.json", "web.sock", *stage.shared_dirs, *files_of(stage)]
    if here in venv.parents:
        left_out.append(str(venv.relative_to(here)))
    hidden = Script()
    if here == stage.layout.deploy_to:
        left_out += [*LAYOUT, ".current.*"]
        hidden = script(call(adopt.ignore, stage.provision.adopt, LAYOUT))
    target = str(stage.layout.deploy_to / "staging" / release.id)
    copied = call(adopt.copy, str(here), target, host.user, stage.app_user, tuple(left_out))
    opened = ("open_code", release.id, PurePosixPath(stage.directory) / stage.django.static_root)
    return hidden + script(copied) + as_deployer(host, script(opened))


def environment(stage: Stage, host: Host, flat: Flat, release: Release) -> Script:
    venv, target = flat.facts["venv"], str(stage.layout.deploy_to / "staging" / release.id / ".venv")
    relocated = ("adopt_environment", release.id, venv, place(stage))
    return script(call(adopt.copy, venv, target, host.user, host.user, ())) + as_deployer(host, script(relocated))


def shared(stage: Stage, host: Host, flat: Flat) -> Script:
    here = str(place(stage))
    readers = naming.readers(stage.app_user)
    files = [call(adopt.take_file, here, one, host.user, readers) for one in files_of(stage)]
    folders = [call(adopt.take_folder, here, one, flat.user, stage.app_user) for one in stage.shared_dirs]
    return script(*files, *folders)


def leave_shared(stage: Stage) -> Script:
    return script(*(call(adopt.leave_folder, str(place(stage)), one) for one in stage.shared_dirs))


def carried(stage: Stage, beats: Iterable[str]) -> Script:
    return script(*(call(adopt.carry_schedule, str(place(stage)), one, stage.app_user) for one in beats))


def owned(stage: Stage) -> Script:
    """Uploads belong to the new services: nobody else writes there any more."""
    return script(*(call(adopt.own_folder, one, stage.app_user, stage.app_user) for one in stage.shared_dirs))


def static(stage: Stage, release: Release) -> Script:
    root = str(PurePosixPath(stage.directory) / stage.django.static_root)
    return script(("adopt_static", release.id, root)) if stage.django.collectstatic else Script()


def site(stage: Stage, host: Host, nginx: Part, id: str) -> Script:
    """The part nginx with the old sites out of the way; all of it is put back when the release does not answer."""
    made = tuple(call for thing in nginx.things for call in thing.make.calls)
    aside = script(("part", nginx.name), ("old_sites_aside", stage.provision.adopt, stage.domain))
    proof = as_deployer(host, script(("front_door", id, health.front(stage, id))))
    return aside + Script(made) + nginx.check + nginx.use + proof + script(("part_done",))


def retire(units: Iterable[str]) -> Script:
    return Script(tuple(("retire_unit", unit) for unit in units))
