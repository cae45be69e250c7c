"""Two stages never come to the same name on a server, whatever they are called; what they share is named here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.config.check import free_names, services
from tasks.config.load import named
from tasks.model import naming
from tasks.model.call import Call
from tasks.model.config import Environment, Host, Provision, Service, Stage
from tasks.model.machine import Part
from tasks.remote import machine
from tasks.remote.machine import stores

SHARED = {
    "/etc/nginx/nginx.conf",
    "/etc/nginx/conf.d/fab-releases-unknown.conf",
    "/etc/systemd/journald.conf.d/50-fab-releases.conf",
    "/etc/pgbouncer/pgbouncer.ini",
    "/etc/redis/fab-releases.conf",
}
"""Files that every stage of a server writes alike."""
FACTS = {"os": "debian 12", "ssh_port": "22", "python": "Python 3.11"}
PORTS = {"redis_port": "6380"}
WORD = st.text("abAB01_-", min_size=1, max_size=12).map(lambda text: "a" + text)
KNOWN = ["shop", "shop-admin", "shop_admin", "Shop", "admin"]
NAMES = WORD.filter(lambda name: "--" not in name) | st.sampled_from(KNOWN)
STAGES = st.sampled_from(["production", "staging", "admin"]) | NAMES
SERVICES = {
    "web": Service(kind="web", command="serve"),
    "worker": Service(kind="worker", command="work"),
    "beat": Service(kind="beat", command="tick"),
}


def stage(application: str, name: str, **more: object) -> Stage:
    made = Stage(
        name=name,
        application=application,
        repository="git@git.test:shop.git",
        deploy_to=f"/srv/{application}/{name}",
        hosts=(Host(name="one", address="192.0.2.1"),),
        domain=f"{name}.{application}.test",
        shared_dirs=("media",),
        services=SERVICES,
        provision=Provision(pgbouncer=True),
        environment=Environment(),
    )
    return named(replace(made, **more), ())  # type: ignore[arg-type]


def made(here: Stage, facts: Mapping[str, str] = FACTS) -> tuple[Part, ...]:
    return machine.parts(here, here.hosts[0], dict(facts), stores.Seeds().in_place)


def files(parts: tuple[Part, ...]) -> dict[str, str]:
    """Path -> what it should be."""
    named = {thing.name: thing.want for part in parts for thing in part.things}
    return {name.removeprefix("file "): want for name, want in named.items() if name.startswith("file ")}


def own(here: Stage) -> set[str]:
    """Accounts, groups, roles, databases, users and units, with their kind."""
    found = {f"account {here.app_user}", f"name {here.known_as}", f"word {here.word}", f"folder {here.layout.run}"}
    return found | {f"unit {path}" for path in files(made(here)) if "/systemd/" in path and "fab-releases" not in path}


@settings(max_examples=25, deadline=None)
@given(NAMES, STAGES, NAMES, STAGES)
def test_two_stages_have_no_name_in_common(one: str, first: str, other: str, second: str) -> None:
    assume((one, first) != (other, second))
    here, there = stage(one, first), stage(other, second)
    assert here.known_as != there.known_as
    assert not own(here) & own(there)
    mine, its = files(made(here)), files(made(there, FACTS | PORTS))
    both = mine.keys() & its.keys()
    assert both <= SHARED
    for path in both - {"/etc/redis/fab-releases.conf"}:
        assert mine[path] == its[path], f"{path} would be written to and fro"


@settings(max_examples=50, deadline=None)
@given(NAMES, STAGES)
def test_names_are_such_as_accounts_and_databases_may_have(application: str, name: str) -> None:
    here = stage(application, name)
    assert re.fullmatch(r"app-[a-z0-9_-]{1,28}", here.app_user)
    assert re.fullmatch(r"[a-z0-9_]+", here.word)
    assert len(here.known_as) <= naming.LONGEST
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", here.known_as), "sudo reads no file with a dot in its name"


@pytest.mark.parametrize("application", ["admin", "Shop", "zebra", "default-2"])
def test_rules_of_redis_are_wanted_as_they_are_found(application: str) -> None:
    """Sorted: one that came before "default" was never as it should be, and Redis was started anew each time."""
    things = [thing for part in made(stage(application, "production")) for thing in part.things]
    (user,) = [thing for thing in things if thing.name == "Redis user"]
    lines = user.want.splitlines()
    assert lines == sorted(lines)
    assert isinstance(user.look, Call)


def test_production_is_called_as_its_application_is() -> None:
    here = stage("pos", "production")
    assert (here.known_as, here.app_user, str(here.layout.run)) == ("pos", "app-pos", "/run/pos")
    there = stage("pos", "staging")
    assert (there.known_as, there.app_user, str(there.layout.run)) == (
        "pos--staging",
        "app-pos--staging",
        "/run/pos--staging",
    )


@pytest.mark.parametrize("taken", ["default", "postgres", "nginx", "pg_shop", "README"])
def test_a_name_that_a_server_has_for_itself_is_refused(taken: str) -> None:
    assert [one.path for one in free_names(stage(taken, "production"))] == [("application",)]
    assert [one.path for one in free_names(replace(stage("pos", "x"), name_on_servers=taken))] == [("name_on_servers",)]


@pytest.mark.parametrize("taken", ["backup", "drill", "failed", "moment"])
def test_a_service_is_not_called_as_a_unit_of_ours(taken: str) -> None:
    here = stage("pos", "production", services={taken: SERVICES["worker"]})
    assert ("services", taken) in [one.path for one in services(here)]


def test_a_name_and_an_account_that_are_set_are_taken() -> None:
    asked = replace(stage("pos", "staging"), name_on_servers="pos", app_user="web")
    here = named(asked, {"name_on_servers", "app_user"})
    assert (here.known_as, here.app_user) == ("pos", "web")
