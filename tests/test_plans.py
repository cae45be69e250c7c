"""Plans as people read them, compared with golden files (UPDATE_GOLDEN=1 rewrites), and what may come back."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.model.config import Environment, Hooks, Stage
from tasks.model.errors import PreflightError, UsageError
from tasks.model.facts import HostFacts
from tasks.model.plan import Phase, Plan, Step
from tasks.model.release import ID, JournalEntry, Release, new_id, publishes, rollback_target, valid_id, valid_ref
from tasks.model.server import Provision
from tasks.model.shell import script
from tasks.plans import adopt, deploy, restore, rollback
from tasks.remote import machine
from tasks.remote.adopt import Flat
from tasks.remote.machine import stores
from tasks.report import paper
from tests.local_hosts import make_stage

GOLDEN = Path(__file__).parent / "golden" / "plans"
OLD, NEW = "20261120-090000-1111111", "20261122-101530-9f3c2ab"
RELEASE = Release(NEW, "9f3c2ab" + "0" * 33, "main", by="ada@laptop", at="2026-11-22T10:15:30+00:00", config="c0ffee")


def stage_of(hosts: int) -> Stage:
    return make_stage(
        *[Path("/srv/shop")] * hosts,
        repository="https://git.example.com/shop.git",
        domain="shop.example.com",
        environment=Environment(),
        shared_dirs=("media",),
        hooks=Hooks(after_switch=("-curl http://cache/purge",)),
        batch=1,
    )


def seen(stage: Stage, current: str = OLD) -> dict[str, HostFacts]:
    return {host.name: HostFacts(host.name, current) for host in stage.hosts}


def without_programs(text: str) -> str:
    """The programs of a release change with every edit; that they are carried is tested where they run."""
    return re.sub(r"(?<=[ =])<\d+ bytes>", "<text>", text)


def adoption(live: str = "") -> tuple[Plan, Plan]:
    """What lets users in, and what ends the old services."""
    old = {"gunicorn.service": "web", "shop-beat.service": "beat"}
    asked = Provision(adopt="/var/www/shop", adopt_services=tuple(old), postgresql=False, redis=False, firewall=False)
    stage = replace(stage_of(1), provision=asked, environment=Environment(file=".env.production"))
    host = stage.hosts[0]
    parts = machine.parts(stage, host, {}, stores.seeds_of(""))
    state = {"live": live, "state": "live", "ref": "adopted"} if live else {}
    flat = Flat({"venv": "/var/www/shop/venv", **state}, units=old, user="deploy")
    plan = adopt.plan(stage, host, flat, parts, (), RELEASE, "ada@laptop")
    return plan, adopt.retire(stage, host, flat, parts, plan.release)


PLANS = {
    "adopt": lambda: adoption()[0],
    "adopt-again": lambda: adoption(OLD)[0],
    "adopt-retire": lambda: adoption()[1],
    "deploy-one-host": lambda: deploy.plan(stage_of(1), seen(stage_of(1)), RELEASE, "ada@laptop"),
    "deploy-two-hosts": lambda: deploy.plan(stage_of(2), seen(stage_of(2)), RELEASE, "ada@laptop"),
    "deploy-first": lambda: deploy.plan(stage_of(1), seen(stage_of(1), ""), RELEASE, "ada@laptop"),
    "rollback-code-only": lambda: rollback.plan(stage_of(2), seen(stage_of(2), NEW), OLD, "ada@laptop", "code-only"),
    "rollback-reverse": lambda: rollback.plan(stage_of(1), seen(stage_of(1), NEW), OLD, "ada@laptop", "reverse"),
    "rollback-restore": lambda: rollback.plan(stage_of(1), seen(stage_of(1), NEW), OLD, "ada@laptop", "restore"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_says_what_it_always_said(name: str) -> None:
    text = without_programs(paper.to_text(PLANS[name]()))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", PLANS)
def test_the_switch_is_undone_with_its_beat(name: str) -> None:
    for phase in PLANS[name]().phases:
        for steps in phase.steps.values():
            for step in steps:
                if phase.visible and step.name == "switch":
                    told = [call[0] for call in step.undo.calls]
                    assert told == (
                        ["put_back", "hand_over"]
                        if any(one.name == "beat" and one.script for one in steps)
                        else ["put_back"]
                    )
                    assert steps[0] is step, "what users see first is undone last"


def test_what_an_undo_brings_back_does_not_know_what_a_deploy_migrated_since() -> None:
    titles = [step.name for phase in restore.plan(stage_of(1), NEW, "ada@laptop", None, run="1f", kept="k").phases
              for step in phase.steps["one"]]  # fmt: skip
    assert titles == ["restore", "migrate", "health"]


@pytest.mark.parametrize(
    ("host", "bouncer", "said"),
    [("data", True, "pgBouncer runs on data, and only on one, which swaps"), ("data", False, ""), ("one", True, "")],
)
def test_a_pool_on_another_host_drops_users_in_a_swap_and_nobody_was_told(host: str, bouncer: bool, said: str) -> None:
    stage = stage_of(1)
    data = (replace(stage.hosts[0], name="data", roles=("postgresql",)),) if host == "data" else ()
    stage = replace(stage, hosts=(*stage.hosts, *data), provision=replace(stage.provision, pgbouncer=bouncer))
    told = restore.cut(stage)
    assert told.startswith(said)
    assert bool(told) is bool(said)


def balanced() -> tuple[Stage, dict[str, HostFacts]]:
    stage = stage_of(2)
    front = replace(stage.hosts[0], name="front", roles=("balancer",))
    return replace(stage, hosts=(front, *stage.hosts)), seen(stage)


@pytest.mark.parametrize("verb", ["deploy", "rollback"])
def test_behind_a_balancer_no_user_is_sent_to_a_host_that_switches(verb: str) -> None:
    stage, facts = balanced()
    plan = (
        deploy.plan(stage, facts, RELEASE, "ada", 1, stage.balancers)
        if verb == "deploy"
        else rollback.plan(stage, facts, NEW, "ada", "code-only", 1, stage.balancers)
    )
    said = [(phase.name, phase.hosts) for phase in plan.phases if phase.visible]
    around = [("drain", ("front",)), ("switch", ("one",)), ("undrain", ("front",))]
    assert said == [*around, ("drain", ("front",)), ("switch", ("two",)), ("undrain", ("front",))]
    steps = [step for phase in plan.phases for step in phase.steps.get("front", ())]
    assert [(step.script.calls[0][0], step.script.calls[0][-1]) for step in steps] == [
        ("drain_for_now", "one"),
        ("undrain_after", "one"),
        ("drain_for_now", "two"),
        ("undrain_after", "two"),
    ]
    assert [step.undo for step in steps if step.undo] == [steps[1].script, steps[3].script]


def test_every_balancer_is_told() -> None:
    stage, facts = balanced()
    stage = replace(stage, hosts=(*stage.hosts, replace(stage.hosts[0], name="side")))
    plan = deploy.plan(stage, facts, RELEASE, "ada", 1, stage.balancers)
    around = [phase.hosts for phase in plan.phases if phase.name in ("drain", "undrain")]
    assert around == [("front", "side")] * 4


def test_a_batch_of_all_there_is_is_not_drained() -> None:
    stage, facts = balanced()
    plan = deploy.plan(stage, facts, RELEASE, "ada", 2, stage.balancers)
    assert [phase.name for phase in plan.phases if phase.visible] == ["switch"]


def test_the_database_is_touched_on_one_host_only() -> None:
    plan = PLANS["deploy-two-hosts"]()
    asked = [
        host for phase in plan.phases for host, steps in phase.steps.items() for one in steps if one.name == "migrate"
    ]
    assert asked == ["one"]


# ---- merged


def phase(name: str, *hosts: str, **more: object) -> Phase:
    return Phase(name, name, {host: (Step(name, name, script((name,))),) for host in hosts}, **more)  # type: ignore[arg-type]


def test_one_host_needs_no_barriers_but_what_users_see_and_what_may_fail_stay_apart() -> None:
    phases = phase("a", "x"), phase("b", "x"), phase("none"), phase("c", "x", visible=True), phase("d", "x", must=False)
    merged = Plan("deploy", "test", ("x",), phases).merged()
    told = [([step.name for step in one.steps["x"]], one.visible, one.must) for one in merged.phases]
    assert told == [(["a", "b"], False, True), (["c"], True, True), (["d"], False, False)]


def test_several_hosts_keep_every_barrier() -> None:
    plan = Plan("deploy", "test", ("x", "y"), (phase("a", "x", "y"), phase("b", "x")))
    assert plan.merged() is plan


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), max_size=8))
def test_merging_loses_no_step_and_keeps_their_order(shape: list[tuple[bool, bool, int]]) -> None:
    phases = tuple(
        Phase(
            f"p{n}", "", {"x": tuple(Step(f"{n}.{m}", "", script(("true",))) for m in range(count))}, visible=v, must=m
        )
        for n, (v, m, count) in enumerate(shape)
    )

    def flat(plan: Plan) -> list[tuple[str, bool, bool]]:
        return [(step.name, one.visible, one.must) for one in plan.phases for step in one.steps["x"]]

    plan = Plan("deploy", "test", ("x",), phases)
    assert flat(plan.merged()) == flat(plan)
    assert plan.merged().merged() == plan.merged()


# ---- who may be gone back to


def live(*ids: str) -> list[JournalEntry]:
    return [JournalEntry(seq, "live", id) for seq, id in enumerate(ids, start=1)]


def having(**states: str) -> list[Release]:
    return [Release(id, "0" * 40, "main", state=state) for id, state in states.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("states", "journal", "current", "steps", "target"),
    [
        ({"a": "retired", "b": "live"}, "ab", "b", 1, "a"),
        ({"a": "retired", "b": "retired", "c": "live"}, "abc", "c", 2, "a"),
        ({"a": "retired", "b": "retired", "c": "live"}, "abc", "c", 3, ""),
        ({"a": "retired", "b": "retired", "c": "live"}, "abc", "c", 0, ""),
        ({"a": "retired", "b": "bad", "c": "live"}, "abc", "c", 1, "a"),
        ({"a": "ready", "b": "live"}, "ab", "b", 1, ""),
        ({"a": "retired", "b": "live"}, "b", "b", 1, ""),
        ({"b": "live"}, "ab", "b", 1, ""),
        ({"a": "live"}, "a", "a", 1, ""),
        ({"z": "retired", "a": "retired", "m": "live"}, "zam", "m", 1, "a"),
        ({"a": "live", "b": "retired", "c": "retired"}, "abca", "a", 1, "c"),
        ({"a": "live", "b": "bad", "c": "retired"}, "acba", "a", 1, "c"),
    ],
)
def test_the_way_back_is_the_newest_that_was_live_and_good(
    states: dict[str, str], journal: str, current: str, steps: int, target: str
) -> None:
    assert rollback_target(current, having(**states), live(*journal), steps) == target


@given(
    states=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["ready", "live", "retired", "bad"])),
    journal=st.lists(
        st.tuples(st.sampled_from(["live", "withdrawn", "repaired"]), st.sampled_from("abcdef")), max_size=12
    ),
    current=st.sampled_from(["", *"abcdef"]),
    steps=st.integers(1, 3),
    shuffle=st.randoms(),
)
def test_a_failed_or_half_built_release_never_comes_back(states, journal, current, steps, shuffle) -> None:  # type: ignore[no-untyped-def]
    entries = [JournalEntry(seq, event, id) for seq, (event, id) in enumerate(journal, start=1)]
    target = rollback_target(current, having(**states), entries, steps)
    if target:
        assert states[target] == "retired"
        assert target != current
        assert ("live", target) in journal
    shuffle.shuffle(entries)
    assert rollback_target(current, having(**states), entries, steps) == target, "the order of lines matters, not seq"


@given(st.permutations("abcdef"), st.permutations("uvwxyz"))
def test_names_say_nothing_about_order(order: list[str], others: list[str]) -> None:
    """The clock of whoever built it stood wrong: the journal knows better."""

    def nth(names: list[str]) -> int:
        states = dict.fromkeys(names, "retired") | {names[-1]: "live"}
        return names.index(rollback_target(names[-1], having(**states), live(*names)))

    assert nth(order) == nth(others) == len(order) - 2


def test_a_release_that_came_back_counts_from_when_it_came_back() -> None:
    assert publishes(live("a", "b", "a")) == ["b", "a"]


FACTS = HostFacts(
    "one", "c", tuple(having(a="retired", b="bad", c="live", d="ready", e="bad")), tuple(live("a", "b", "c"))
)


@pytest.mark.parametrize(
    ("facts", "to", "reason"),
    [
        (FACTS, "c", "is live already"),
        (FACTS, "d", "was never live"),
        (FACTS, "e", "failed before it went live"),
        (FACTS, "x", "there is no release x"),
        (replace(FACTS, current=""), "", "nothing is live"),
        (replace(FACTS, journal=()), "", "no release that was live before"),
    ],
)
def test_a_way_back_that_is_none_is_refused_with_its_reason(facts: HostFacts, to: str, reason: str) -> None:
    with pytest.raises(PreflightError, match=reason):
        rollback.target({"one": facts}, to)


def test_who_asks_for_a_bad_release_that_was_live_gets_it() -> None:
    assert rollback.target({"one": FACTS}, "b") == "b"
    assert rollback.target({"one": FACTS}) == "a"


def test_hosts_that_would_go_back_to_different_releases_do_not_go() -> None:
    other = HostFacts("two", "c", tuple(having(b="retired", c="live")), tuple(live("b", "c")))
    with pytest.raises(PreflightError, match="one to a, two to b"):
        rollback.target({"one": FACTS, "two": other})


@pytest.mark.parametrize(
    ("states", "current", "undecided"),
    [
        ({"a": "retired", "b": "live"}, "b", False),
        ({}, "", False),
        ({"a": "ready"}, "", False),
        ({"a": "live", "b": "ready"}, "b", True),
        ({"a": "live", "b": "live"}, "b", True),
        ({"a": "live", "b": "ready"}, "a", False),
        ({"a": "live"}, "", True),
        ({"a": "bad"}, "a", True),
    ],
)
def test_a_death_between_switch_and_record_is_seen(states: dict[str, str], current: str, undecided: bool) -> None:
    assert HostFacts("one", current, tuple(having(**states))).undecided is undecided


# ---- names

MOMENT = datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)


def test_a_release_is_named_by_time_and_commit() -> None:
    assert new_id("9f3c2ab" + "0" * 33, MOMENT) == NEW


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), st.integers(0, 10**7))
def test_a_new_name_sorts_after_every_older_one_or_is_refused(moment: datetime, seconds: int) -> None:
    sha = "0123456" + "0" * 33
    earlier = new_id(sha, moment)
    assert ID.fullmatch(earlier)
    later = moment + timedelta(seconds=seconds)
    if later.strftime("%Y%m%d%H%M%S") == moment.strftime("%Y%m%d%H%M%S"):
        with pytest.raises(UsageError, match="clock"):
            new_id(sha, later, [earlier])
    else:
        assert new_id(sha, later, [earlier]) > earlier
        with pytest.raises(UsageError, match="clock"):
            new_id(sha, moment, [new_id(sha, later)])


def test_a_time_zone_does_not_change_the_name() -> None:
    from datetime import timezone

    there = MOMENT.astimezone(timezone(timedelta(hours=9)))
    assert new_id("9f3c2ab" + "0" * 33, there) == NEW


HOSTILE = [
    "",
    "-x",
    "--upload-pack=x",
    "a;id",
    "$(id)",
    "`id`",
    "a|b",
    "a&b",
    "a>b",
    "'",
    "a'\"b",
    "$IFS",
    "\n",
    "a\n",
    "\0",
    "../",
    "a/../b",
    "/etc",
    "~root",
    "{{7*7}}",
    "%n",
    "ünï",
    "\u2028",
    "a" * 300,
    " ",
    "a b",
    "a@{1}",
    "a.lock",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_shell_or_git_could_misread_is_neither_ref_nor_release(text: str) -> None:
    with pytest.raises(UsageError):
        valid_ref(text)
    with pytest.raises(UsageError):
        valid_id(text)


@given(st.text(max_size=30))
def test_a_ref_that_passes_needs_no_quotes(text: str) -> None:
    try:
        valid_ref(text)
    except UsageError:
        return
    import shlex

    assert shlex.quote(text) == text
    assert not text.startswith(("-", "/", "."))


def test_no_two_things_of_a_host_have_one_name() -> None:
    """What is found of the one would be taken for the other."""
    for stage in (stage_of(1), replace(stage_of(1), provision=Provision(fail2ban=True, upgrades=True, ssh=True))):
        facts = {"os": "debian 12", "ssh_port": "22"}
        parts = machine.parts(stage, stage.hosts[0], facts, stores.seeds_of(""))
        names = [thing.name for part in parts for thing in part.things if part.name != "https"]
        assert [name for name in names if names.count(name) > 1] == []
