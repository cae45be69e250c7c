"""Killed at any instant, twice even: `current` is a complete release that runs, and the next run just works and tidies.

The real plans, said by the real library to a real bash. Only what is slow is stood in for: the checkout is four files,
a service is a file. Before each command that changes something the folder is copied: that copy is what a death at that
moment leaves. What the disk itself forgets is tested on real servers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.engine.execute import script_for
from tasks.model.facts import HostFacts
from tasks.model.plan import Plan, Step
from tasks.model.release import JournalEntry, Release, publishes
from tasks.model.shell import Script, script
from tasks.plans import deploy, rollback
from tasks.remote import release as releases
from tasks.remote.library import library, site
from tasks.server.values import wire
from tests.local_hosts import MANAGER, make_stage

Tree = dict[str, str]
"""Path -> "d", "l" + target or "f" + content."""

SERVER = Path(__file__).parents[1] / "tasks" / "server"
STAND_INS = r"""
for name in fetch compile_code static_files pool_static inspect migrate unmigrate find; do eval "$name() { :; }"; done
checkout() { # every second one has other requirements than the one before
  local file number=${1%%-*}
  number=$((10#$number / 2 * 2))
  mkdir -p "$STAGING/$1/.release"
  for file in a b c; do printf '%s' "$1" >"$STAGING/$1/$file"; done
  printf '%08d-000000-%07x' "$number" "$number" >"$STAGING/$1/requirements.txt"
  [ ! -e "$DEPLOY_TO/next" ] || mv "$DEPLOY_TO/next" "$STAGING/$1/.$(cat "$DEPLOY_TO/next")"
}
environment_key() { cat "$1/$2"; }
build_environment() { # LOCK ID
  local file venv=$STAGING/$2/.venv
  mkdir -p "$venv/bin"
  ln -s /bin/sh "$venv/bin/python"
  for file in freeze.txt python packages; do cp "$STAGING/$2/$1" "$venv/$file"; done
}
queue_empty() { :; }
sweep() { remove_rubbish; }
probe() { # well is what runs and is whole; `.unwell` is well in private only
  local file
  [ -e "$RUNNING/web@$1" ] || return 1
  for file in a b c; do [ "$(cat "$RELEASES/$1/$file")" = "$1" ] || return 1; done
  cmp -s "$RELEASES/$1/.venv/packages" "$RELEASES/$1/requirements.txt" || return 1
  case $2 in *'"socket"'*) ;; *) [ "$(current_id)" = "$1" ] && [ ! -e "$RELEASES/$1/.unwell" ] ;; esac
}
snapshot() { [ -z "$SNAP" ] || /bin/cp -a "$DEPLOY_TO" "$SNAPSHOTS/$EPOCHREALTIME.$BASHPID"; }
boundary() { case $1 in *'>"$'* | *'> "$'* | *'>>'*) snapshot ;; esac; }
# Functions, since DEBUG is silent within a trap: the way back of a failed switch is one.
for name in mv ln rm cp mkdir; do eval "$name() { snapshot; command $name \"\$@\"; }"; done
sync() { snapshot; }
"""
SETTING = """
NONCE=n DEPLOY_TO={folder}/host RUN={folder}/run APPLICATION=shop MANAGER=fake PORT=80
SERVICES=(web=web worker=worker beat=beat)
PRIVATE=$DEPLOY_TO/.releases RELEASES=$DEPLOY_TO/releases STAGING=$DEPLOY_TO/staging SHARED=$DEPLOY_TO/shared
ENVIRONMENTS=$DEPLOY_TO/environments
SITE='{site}' SERVER_FOLDER={server} SERVER_PYTHON={python}
LOCKED='' JOB='' STEP='' RUNS=1 RUNNING=$DEPLOY_TO/running SNAPSHOTS={folder}/snapshots
exec 3>&1
[ -z "$SNAP" ] || {{
  set -o functrace
  trap 'boundary "$BASH_COMMAND"' DEBUG
}}
work "$(cat {folder}/script)"
"""


def read_tree(root: Path) -> Tree:
    tree: Tree = {}
    for folder, names, files in os.walk(root):
        for name in names + files:
            path = Path(folder, name)
            kind = "l" + str(path.readlink()) if path.is_symlink() else "d" if path.is_dir() else "f" + path.read_text()
            tree[str(path.relative_to(root))] = kind
    return tree


def write_tree(root: Path, tree: Tree) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name in sorted(tree):
        path, kind = root / name, tree[name]
        if kind[0] == "d":
            path.mkdir()
        elif kind[0] == "l":
            path.symlink_to(kind[1:])
        else:
            path.write_text(kind[1:])


def current(tree: Tree) -> str:
    return tree.get("current", "").rpartition("/")[2]


def environment_of(tree: Tree, id: str) -> str:
    return tree.get(f"releases/{id}/.venv", "").removeprefix("l../../")


def facts_of(tree: Tree) -> HostFacts:
    """What a survey would see."""
    found = [
        Release.from_json(text[1:])
        for name, text in sorted(tree.items())
        if re.fullmatch(r"releases/[^./][^/]*/release\.json", name)
    ]
    journal = [
        line for line in tree.get(".releases/journal.jsonl", "f")[1:].splitlines() if re.fullmatch(r"\{.*\}", line)
    ]
    return HostFacts("one", current(tree), tuple(found), tuple(JournalEntry.from_json(line) for line in journal))


def running(tree: Tree) -> set[str]:
    return {name.removeprefix("running/") for name in tree if re.match(r"running/(?!failed\.)", name)}


def without_power(tree: Tree) -> Tree:
    """Everything has died; the service manager started what `current` leads to."""
    kept = {name: kind for name, kind in tree.items() if not name.startswith("running/")}
    id = current(tree)
    return kept | (
        {"running": "d", f"running/web@{id}": "f", f"running/worker@{id}": "f", "running/beat": f"f{id}"} if id else {}
    )


def torn(tree: Tree, before: Tree) -> Tree:
    """The line of the journal that was just written, and not flushed yet, is only half there."""
    name = ".releases/journal.jsonl"
    return tree | {name: tree[name][:-25]} if len(tree.get(name, "")) > len(before.get(name, "")) else tree


def key(tree: Tree) -> str:
    """Two states with one key differ in names, times and finished business only."""
    ids = sorted({id for text in [*tree, *tree.values()] for id in re.findall(r"\d{8}-\d{6}-[0-9a-f]{7}", text)})
    said = {name: kind for name, kind in tree.items() if name != ".releases/journal.jsonl"}
    raw = tree.get(".releases/journal.jsonl", "f")
    order = [one for one in publishes(facts_of(tree).journal) if f"releases/{one}/release.json" in tree]
    text = json.dumps([sorted(said.items()), order, raw.endswith("\n")])
    for place, id in enumerate(ids):
        text = text.replace(id, f"ID{place}")
    text = re.sub(r'\\"(at|sha)\\": \\"[^"]*\\"', "", text)
    return re.sub(r"\.(current|lock)\.[0-9.]+", ".left", text)


@dataclass
class Outcome:
    code: int
    tree: Tree
    deaths: list[Tree] = field(default_factory=list)


class World:
    """A host's folder, and the three things people do to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, folder / "host"
        self.stage = replace(make_stage(self.host), keep_releases=2)
        self.program = (
            library()
            + MANAGER
            + STAND_INS
            + SETTING.format(
                folder=folder,
                site=wire.dumps(site(self.stage, self.stage.hosts[0])),
                server=SERVER,
                python=sys.executable,
            )
        )
        self.good: set[str] = set()
        self.runs = 0

    def say(self, text: str, outcome: Outcome, snap: bool) -> list[str] | None:
        """The steps that began where it failed, None where all went well."""
        self.runs += 1
        (self.folder / "script").write_text(text)
        snapshots = self.folder / "snapshots"
        snapshots.mkdir()
        command = ["bash", "-c", self.program]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "SNAP": "yes" if snap else ""}
        )
        outcome.deaths += [read_tree(path) for path in sorted(snapshots.iterdir())]
        shutil.rmtree(snapshots)
        outcome.tree = read_tree(self.host)
        if "\x1en\texit\t0\t1\n" in done.stdout:
            return None
        return re.findall(r"\x1en\tbegin\t(.*)", done.stdout)

    def perform(self, tree: Tree, verb: str, snap: bool = False) -> Outcome:
        """As the surface and the engine do it: decide what is undecided, look, plan, carry out, undo."""
        outcome = Outcome(0, tree)
        write_tree(self.host, tree)
        facts = facts_of(tree)
        if facts.undecided:
            self.say(releases.repair(self.stage, facts.current, "me").text(), outcome, snap)
            facts = facts_of(outcome.tree)
        begun: list[Step] = []
        for phase in self.plan(facts, verb).merged().phases:
            steps = phase.steps["one"]
            told = self.say(script_for(steps), outcome, snap)
            begun += [step for step in steps if told is None or step.name in told]
            if told is not None and phase.must:
                outcome.code = 1
                for step in reversed([step for step in begun if step.undo]):
                    assert self.say(step.undo.text(), outcome, snap) is None, f"cannot undo {step.name}"
                break
        outcome.tree = {name: kind for name, kind in outcome.tree.items() if name != "next"}
        return outcome

    def repair(self, tree: Tree) -> Outcome:
        write_tree(self.host, tree)
        outcome = Outcome(0, tree)
        told = self.say(releases.repair(self.stage, current(tree), "me").text(), outcome, snap=True)
        assert told is None, "repair failed"
        return outcome

    def plan(self, facts: HostFacts, verb: str) -> Plan:
        seen = {"one": facts}
        if verb == "rollback":
            return slim(rollback.plan(self.stage, seen, rollback.target(seen), "me", "code-only"))
        taken = [one.id for one in facts.releases] + [one.release for one in facts.journal]
        number = max((int(id[:8]) for id in taken), default=0) + 1
        id = f"{number:08}-000000-{number:07x}"
        if verb == "deploy":
            self.good.add(id)
        else:
            (self.host / "next").write_text(verb)
        return slim(deploy.plan(self.stage, seen, Release(id, "0" * 40, "main"), "me"))


def slim(plan: Plan) -> Plan:
    """Without the text of programs nobody starts here, and without what only looks."""

    def only(said: Script) -> Script:
        lines = [line for line in said.calls if isinstance(line, tuple)]
        return script(*(line for line in lines if line[0] != "program" or line[2] == "services.json"))

    phases = [
        replace(one, steps={"one": tuple(replace(step, script=only(step.script)) for step in one.steps["one"])})
        for one in plan.phases
        if one.hosts
    ]
    return replace(plan, phases=tuple(phases))


def assert_current_is_whole(tree: Tree, told: str) -> None:
    """I1, at any instant."""
    id = current(tree)
    assert id, f"{told}: nothing is live"
    for name in ("a", "b", "c"):
        assert tree.get(f"releases/{id}/{name}") == f"f{id}", f"{told}: {name} of the live release {id} is not whole"
    for one in {path.split("/")[1] for path in tree if re.fullmatch(r"releases/[^./][^/]*/release\.json", path)}:
        place, wanted = environment_of(tree, one), tree[f"releases/{one}/requirements.txt"]
        for name in ("packages", "freeze.txt", "python"):
            assert tree.get(f"{place}/{name}") == wanted, f"{told}: {name} is missing in the environment of {one}"
    for name in ("release.json", ".release/services.json"):
        assert f"releases/{id}/{name}" in tree, f"{told}: the live release {id} has no {name}"


def assert_clean(world: World, tree: Tree, told: str) -> None:
    """After a run that was let finish: one live release, it runs, it is known as such, and nothing lies about."""
    assert_current_is_whole(tree, told)
    id, facts = current(tree), facts_of(tree)
    assert id in world.good, f"{told}: {id}, which never was well, is live"
    assert {one.id for one in facts.releases if one.state == "live"} == {id}, told
    assert publishes(facts.journal)[-1:] == [id], f"{told}: the journal does not end with what is live"
    assert running(tree) == {f"web@{id}", f"worker@{id}", "beat"}, told
    assert tree["running/beat"] == f"f{id}", told
    mess = r"staging/.|\.current|releases/\.|environments/\.|.*\.part$|\.releases/lock\."
    assert [name for name in tree if re.match(mess, name)] == [], told
    there = {name for name in tree if re.fullmatch(r"environments/[^/]+", name)}
    assert there == {environment_of(tree, one.id) for one in facts.releases}, f"{told}: an environment nobody uses"
    states = {one.state for one in facts.releases}
    assert states <= {"live", "retired", "bad"}, told
    assert len(facts.releases) <= 6, f"{told}: releases pile up"


def assert_next_runs_work(world: World, tree: Tree, told: str) -> None:
    """Nobody unlocks, cleans or decides anything: a deploy works, and the way back from it leads to what was live."""
    before = world.perform(tree, "deploy")
    assert before.code == 0, f"{told}: the next deploy failed"
    assert_clean(world, before.tree, f"{told}, then deploy")
    back = world.perform(before.tree, "rollback")
    assert back.code == 0, f"{told}: the next rollback failed"
    assert_clean(world, back.tree, f"{told}, then deploy, rollback")
    assert current(back.tree) != current(before.tree)
    left = facts_of(back.tree).release(current(before.tree))
    assert left is None or left.state == "bad"


VERBS = ("deploy", "unwell", "sick", "rollback")


@dataclass
class Explorer:
    """All that can happen, each different state once: every run begins with `repair`, which leaves few of them."""

    world: World
    proven: set[str] = field(default_factory=set)
    looked_at: set[str] = field(default_factory=set)
    plans: int = 0

    def deaths(self, tree: Tree, verb: str, told: str) -> Iterator[tuple[str, Tree]]:
        """Every state a death during `verb` can leave."""
        outcome = self.world.perform(tree, verb, snap=True)
        assert outcome.code == (1 if verb in ("unwell", "sick") else 0), f"{told} {verb}: exit {outcome.code}"
        assert_live_and_good(self.world, outcome.tree, f"{told} {verb}")
        yield from self.variants(outcome.deaths, tree, f"{told} {verb}")

    def variants(self, dead: list[Tree], start: Tree, told: str) -> Iterator[tuple[str, Tree]]:
        for number, (before, state) in enumerate(pairwise([start, *dead])):
            name = f"{told} killed before change {number}"
            assert_current_is_whole(state, name)
            state.pop("next", None)
            for how, one in (
                ("", state),
                (" by the power", without_power(state)),
                (" within a line", torn(state, before)),
            ):
                self.plans += 1
                if key(one) not in self.looked_at:
                    self.looked_at.add(key(one))
                    yield name + how, one

    def prove(self, told: str, tree: Tree) -> tuple[Tree, list[Tree]]:
        """What is left after repair, and at each death in it. What cannot change under a plan must not."""
        outcome = self.world.repair(tree)
        assert_clean(self.world, outcome.tree, f"{told}, then repair")
        if not facts_of(tree).undecided:
            assert current(outcome.tree) == current(tree), f"{told}: repair changed current under a plan"
        if key(outcome.tree) not in self.proven:
            self.proven.add(key(outcome.tree))
            assert_next_runs_work(self.world, outcome.tree, told)
        return outcome.tree, outcome.deaths


def assert_live_and_good(world: World, tree: Tree, told: str) -> None:
    assert_current_is_whole(tree, told)
    assert current(tree) in world.good, f"{told}: a release that is not well is live"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield World(Path(folder))


@pytest.fixture(scope="module")
def start(world: World) -> Tree:
    tree: Tree = {}
    for _ in range(3):
        outcome = world.perform(tree, "deploy")
        assert outcome.code == 0
        tree = outcome.tree
        assert_clean(world, tree, "a first deploy")
    return tree


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=pytest.mark.nightly) if verb in ("unwell", "sick") else verb for verb in VERBS]
)
def test_one_death_at_any_instant_and_a_second_one_in_the_next_run(world: World, start: Tree, verb: str) -> None:
    explorer = Explorer(world)
    repaired: dict[str, tuple[str, Tree]] = {}
    second: list[tuple[str, Tree, list[Tree]]] = []
    for told, state in explorer.deaths(start, verb, ""):
        after, deaths = explorer.prove(told, state)
        repaired.setdefault(key(after), (told, after))
        second.append((f"{told}, then repair", state, deaths))
    singles = explorer.plans
    for told, first, deaths in second:
        for name, state in explorer.variants(deaths, first, told):
            explorer.prove(name, state)
    for number, (told, after) in enumerate(repaired.values()):  # each kind of next run after some of them
        again = VERBS[number % len(VERBS)]
        for name, state in explorer.deaths(after, again, f"{told}, then"):
            explorer.prove(name, state)
    print(
        f"{verb}: {singles} plans with one death, {explorer.plans - singles} with two, of {len(explorer.looked_at)} "
        f"different states; {len(explorer.proven)} remain after repair, {world.runs} scripts run"
    )
    assert singles >= 40
    assert explorer.plans > 4 * singles, "hardly a second death"


@pytest.mark.parametrize("verb", ["unwell", "deploy"])
def test_the_run_after_an_undecided_death_is_not_planned_on_what_repair_will_change(
    world: World, start: Tree, verb: str
) -> None:
    """Nothing is repaired by hand in between: the plan itself must have been made from what stays."""
    tried = 0
    for told, state in Explorer(world).deaths(start, verb, ""):
        if facts_of(state).undecided:
            for again in ("deploy", "rollback"):
                tried += 1
                outcome = world.perform(state, again)
                assert outcome.code == 0, f"{told}, then {again}: failed"
                assert_clean(world, outcome.tree, f"{told}, then {again}")
    assert tried >= 4
