"""Several servers are one thing to the people who deploy: all of them change, or none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boot
from tests.servers import Server
from tests.servers.faults import cut_link, shim, stopped
from tests.servers.shop import REQUIREMENTS, Shop, make_shop, prepare

pytestmark = pytest.mark.server

ENVIRONMENT_FILE = "/srv/pos/shared/.env.production"
PATIENCE = 90


@pytest.fixture(scope="module")
def fleet_once(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, str]]:
    """Two servers with `base` live, and their schema; the first one has the database and Redis."""
    servers = [boot(f"app{number}", requirements=REQUIREMENTS) for number in (1, 2)]
    shop = make_shop(tmp_path_factory.mktemp("fleet"), servers, origin)
    shop.fab("deploy", "--ref", "base", timeout=300)
    schema = _schema(shop)
    for server in servers:
        server.snapshot()
    yield shop, schema
    for server in servers:
        server.close()


@pytest.fixture
def fleet(fleet_once: tuple[Shop, str]) -> Shop:
    """Both servers serve one release with the schema of `base`: they are put back where a test left them otherwise."""
    shop, schema = fleet_once
    shop.configure()
    if not _whole(shop) or _schema(shop) != schema:
        for server in shop.servers:
            server.reset()
        _await(lambda: _whole(shop), "both servers serve base after a reset")
    return shop


# -- all of them


def test_every_host_gets_the_same_commit_under_the_same_id(fleet: Shop) -> None:
    fleet.fab("deploy", "--ref", "code-only")
    described = [json.loads(server.run("cat /srv/pos/current/release.json").stdout) for server in fleet.servers]
    assert described[0] == described[1]
    assert described[0]["ref"] == "code-only"
    assert _serves(fleet) == [described[0]["id"]] * 2


def test_the_database_is_migrated_once_and_beat_runs_once(fleet: Shop) -> None:
    events = _events(fleet, "deploy", "--ref", "additive-migration")
    migrated = [event["host"] for event in events if event["event"] == "step_finished" and event["step"] == "migrate"]
    assert migrated == ["app1"]
    assert _beats(fleet) == ["active", "inactive"]
    assert "shelf" in _schema(fleet)


def test_a_fleet_rolls_back_together_with_its_database(fleet: Shop) -> None:
    before, schema = fleet.current(), _schema(fleet)
    fleet.fab("deploy", "--ref", "additive-migration")
    assert _schema(fleet) != schema
    fleet.fab("rollback", "--yes")
    assert _serves(fleet) == [before, before]
    assert _schema(fleet) == schema
    assert _beats(fleet) == ["active", "inactive"]
    assert _beat_runs(fleet) == before


def test_hosts_that_would_go_back_to_different_releases_are_refused(fleet: Shop) -> None:
    fleet.fab("-H", "app2", "deploy", "--ref", "code-only", "--force")
    fleet.fab("deploy", "--ref", "base", "--force")
    before = _serves(fleet)
    refused = fleet.fab("rollback", "--yes", check=4)
    assert "app1 to " in refused.stderr
    assert "app2 to " in refused.stderr
    assert "fab rollback --to" in refused.stderr
    assert _serves(fleet) == before


def test_logs_of_several_hosts_say_which_host_said_it(fleet: Shop) -> None:
    lines = fleet.fab("logs", "--service", "worker", "--lines", "5").stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"app1", "app2"}
    alone = fleet.fab("-H", "app2", "logs", "--service", "worker", "--lines", "5").stdout.splitlines()
    assert alone
    assert not any(line.startswith("app2 ") for line in alone)


# -- or none: one host fails, at each phase

Fault = Callable[[Shop], AbstractContextManager[Any]]


def _tool(tool: str) -> Fault:
    return lambda fleet: shim(fleet.servers[1], tool, nth=None)


def _variable(name: str, value: str, host: int = 1) -> Fault:
    """Another value in one server's own environment file."""

    @contextmanager
    def fault(fleet: Shop) -> Iterator[None]:
        server = fleet.servers[host]
        kept = server.run(f"cat {ENVIRONMENT_FILE}").stdout
        lines = [f"{name}={value}" if line.startswith(f"{name}=") else line for line in kept.splitlines()]
        server.put(ENVIRONMENT_FILE, "\n".join(lines) + "\n", mode=0o640, owner="deploy:env-app")
        try:
            yield
        finally:
            server.put(ENVIRONMENT_FILE, kept, mode=0o640, owner="deploy:env-app")

    return fault


def _unit(service: str, host: int = 1) -> Fault:
    """One server's unit does not start any more, whatever the release."""

    @contextmanager
    def fault(fleet: Shop) -> Iterator[None]:
        server, folder = fleet.servers[host], f"/etc/systemd/system/pos-{service}@.service.d"
        server.put(f"{folder}/broken.conf", "[Service]\nExecStartPre=/bin/false\n")
        server.run("systemctl daemon-reload")
        try:
            yield
        finally:
            server.run(f"rm -r {folder} && systemctl daemon-reload")

    return fault


@contextmanager
def _front_door(fleet: Shop) -> Iterator[None]:
    with stopped(fleet.servers[1], "nginx"):
        yield


@contextmanager
def _nothing(fleet: Shop) -> Iterator[None]:
    """The revision itself is the fault."""
    yield


@pytest.mark.parametrize(
    ("fault", "ref", "code", "said"),
    [
        pytest.param(_tool("git"), "slow-boot", 1, "app2: cannot fetch", id="fetch", marks=pytest.mark.nightly),
        pytest.param(_tool("uv"), "new-requirement", 1, "app2: ", id="packages", marks=pytest.mark.nightly),
        pytest.param(
            _variable("SECRET_KEY", ""),
            "media-in-git",
            1,
            "SECRET_KEY is not set",
            id="static",
            marks=pytest.mark.nightly,
        ),
        pytest.param(_unit("web"), "media-in-git", 1, "app2: web of release", id="boot", marks=pytest.mark.nightly),
        pytest.param(_nothing, "failing-atomic-migration", 1, "app1: a migration failed", id="migrate"),
        pytest.param(
            _variable("ALLOWED_HOSTS", "other"),
            "media-in-git",
            1,
            "app2: release",
            id="health",
            marks=pytest.mark.nightly,
        ),
        pytest.param(_unit("worker"), "media-in-git", 1, "app2: worker of release", id="workers"),
        pytest.param(_front_door, "media-in-git", 5, "through the front door", id="switch"),
    ],
)
def test_where_one_host_fails_every_host_stays_as_it_was(
    fleet: Shop, fault: Fault, ref: str, code: int, said: str
) -> None:
    before = _moment(fleet)
    _less_patient(fleet)
    with fault(fleet):
        failed = fleet.fab("deploy", "--ref", ref, check=code)
    assert said in failed.stderr
    assert f"serves now   {before.release}  app1, app2" in failed.stderr
    _assert_untouched(fleet, before)


def test_a_host_that_fails_to_tidy_up_is_a_warning(fleet: Shop) -> None:
    fleet.configure('[hooks]\nafter_switch = ["test ! -e /run/not-here"]')
    before = fleet.current()
    fleet.servers[1].run("touch /run/not-here")
    try:
        done = fleet.fab("deploy", "--ref", "media-in-git", "--force")
    finally:
        fleet.servers[1].run("rm /run/not-here")
    assert _serves(fleet) == [fleet.current()] * 2 != [before] * 2
    assert "app2" in done.stderr
    assert "after_switch failed" in done.stderr


def test_cap_4_a_switch_that_fails_on_one_host_is_taken_back_on_the_other(fleet: Shop) -> None:
    """Capistrano leaves host 1 new and host 2 old, and does not say so."""
    before = _moment(fleet)
    with shim(fleet.servers[1], "mv", nth=None):
        failed = fleet.fab("deploy", "--ref", "media-in-git", check=None)
    assert failed.returncode in (1, 5)
    _assert_untouched(fleet, before)
    fleet.fab("deploy", "--ref", "media-in-git")
    assert "media-in-git" in _described(fleet.servers[1])["ref"]
    assert _serves(fleet) == [fleet.current()] * 2


def test_ans_1_no_host_goes_live_alone_when_the_first_fails_its_check(fleet: Shop) -> None:
    """Ansible drops the failed host and goes on with the others: host 2 is then the only new one."""
    before = _moment(fleet)
    with _unit("web", host=0)(fleet):
        failed = fleet.fab("deploy", "--ref", "slow-boot", check=1)
    assert "app1: web of release" in failed.stderr
    _assert_untouched(fleet, before)


# -- locks


def test_dep_4_where_one_host_is_locked_none_stays_locked(fleet: Shop) -> None:
    """Deployer takes and leaks the lock of app1 when app2 is somebody else's."""
    fleet.configure('[hooks]\nbefore_switch = ["sleep 8"]')
    other = fleet.start("-H", "app2", "deploy", "--ref", "code-only", "--force")
    try:
        _await(lambda: _locked(fleet.servers[1]), "the other run holds app2")
        refused = fleet.fab("deploy", "--ref", "base", "--force", check=3)
        assert "app2 is locked by " in refused.stderr
        assert "deploy code-only" in refused.stderr
        assert not _locked(fleet.servers[0])
        assert other.poll() is None, "the other run goes on"
    finally:
        said, _ = other.communicate(timeout=180)
    assert other.returncode == 0, said
    assert not any(_locked(server) for server in fleet.servers)


# -- hosts that are not there


def test_a_host_that_is_away_at_the_start_stops_everything_before_it_begins(fleet: Shop) -> None:
    before = _files(fleet.server)
    with cut_link(fleet.servers[1], "drop"):
        failed = fleet.fab("deploy", "--ref", "slow-boot", check=1)
    assert "app2: no connection to " in failed.stderr
    assert "app1" not in failed.stderr
    assert _files(fleet.server) == before
    assert not _locked(fleet.server)


def test_a_host_lost_while_it_builds_leaves_everybody_on_the_old_release(fleet: Shop) -> None:
    before = fleet.current()
    fleet.configure('[hooks]\nafter_checkout = ["sleep 15"]')
    run = fleet.start("deploy", "--ref", "media-in-git", "--force")
    _await(lambda: _building(fleet.servers[1]), "app2 builds")
    with cut_link(fleet.servers[1], "drop"):
        said, _ = run.communicate(timeout=180)
        assert run.returncode == 1, said
        assert "app2: the connection was lost" in said
        assert "unknown: could not be asked  app2" in said
        assert fleet.current() == before
    assert fleet.current(fleet.servers[1]) == before
    _await(lambda: not _locked(fleet.servers[1]), "the lock ends soon after its connection")
    fleet.configure()
    fleet.fab("deploy", "--ref", "media-in-git", "--force")
    assert _serves(fleet) == [fleet.current()] * 2
    assert not any(_building(server) for server in fleet.servers)


def test_a_host_lost_while_it_switches_is_said_shown_and_repaired(fleet: Shop) -> None:
    """The worst moment: app2 is taken back, and app1 goes live on its own while nobody can ask it."""
    one, two = fleet.servers
    before = fleet.current()
    one.run("systemctl stop nginx")
    run = fleet.start("deploy", "--ref", "code-only", "--force")
    _await(lambda: fleet.current(one) != before, "app1 has switched and asks at its front door")
    with cut_link(one, "drop"):
        one.run("systemctl start nginx")
        said, _ = run.communicate(timeout=180)
        assert run.returncode == 6, said
        assert f"{before}  app2" in said
        assert "unknown: could not be asked  app1" in said
        assert fleet.current(two) == before
        _await(lambda: _described(one)["state"] == "live", "its critical section comes to its own end")
        _await(lambda: not _locked(one), "the lock ends soon after its connection")
    assert "the hosts differ" in fleet.fab("status").stdout
    fleet.fab("deploy", "--ref", "code-only")
    assert _serves(fleet) == [fleet.current()] * 2 != [before] * 2
    assert "the hosts differ" not in fleet.fab("status").stdout


# -- some of them


def test_one_host_alone_is_drift_that_the_next_deploy_repairs(fleet: Shop) -> None:
    before = fleet.current()
    fleet.fab("-H", "app2", "deploy", "--ref", "code-only", "--force")
    assert fleet.current() == before != fleet.current(fleet.servers[1])
    assert "the hosts differ" in fleet.fab("status").stdout
    only = fleet.fab("-H", "app2", "status").stdout
    assert "app1" not in only
    fleet.fab("deploy", "--ref", "code-only")
    assert _serves(fleet) == [fleet.current()] * 2
    assert fleet.current() != before


def test_a_release_that_needs_a_migration_does_not_go_to_a_host_without_the_one_that_migrates(fleet: Shop) -> None:
    before, schema = _serves(fleet), _schema(fleet)
    ref = "additive-not-null"
    refused = fleet.fab("-H", "app2", "deploy", "--ref", ref, check=1)
    assert "and app1, which runs them, does not take part" in refused.stderr
    assert _serves(fleet) == before
    assert _schema(fleet) == schema


def test_a_host_that_does_not_exist_is_a_usage_error_with_the_names(fleet: Shop) -> None:
    refused = fleet.fab("-H", "app2,app9", "deploy", check=2)
    assert "app9" in refused.stderr
    assert "its hosts are app1, app2" in refused.stderr


@pytest.mark.nightly
def test_a_host_for_workers_only_runs_no_web_and_no_beat_not_even_after_a_reboot(fleet: Shop) -> None:
    worker = fleet.servers[1]
    fleet.configure(roles=('["web", "beat", "db"]', '["worker"]'))
    fleet.install()
    try:
        fleet.fab("deploy", "--ref", "base", "--force")
        id = fleet.current()
        assert [fleet.current(server) for server in fleet.servers] == [id, id]
        assert _running(fleet.server) == {f"web@{id}", "beat"}
        _await(lambda: _running(worker) == {f"worker@{id}"}, "the web processes of before are gone")
        worker.reboot()
        _await(lambda: f"worker@{id}" in _running(worker), "workers run after a reboot")
        worker.settle()
        assert _running(worker) == {f"worker@{id}"}
    finally:
        for server in fleet.servers:
            server.reset()


def test_a_rolling_deploy_that_fails_late_takes_the_first_host_back(fleet: Shop) -> None:
    before = _moment(fleet)
    with stopped(fleet.servers[1], "nginx"):
        events = _events(fleet, "deploy", "--ref", "media-in-git", "--force", "--batch", "1", check=5)
    assert [event["hosts"] for event in events if event["event"] == "phase_started" and event["name"] == "switch"] == [
        ["app1"],
        ["app2"],
    ]
    assert events[-1]["serves"] == {"app1": before.release, "app2": before.release}
    _assert_untouched(fleet, before)


# -- four of them


@pytest.mark.nightly
def test_four_hosts_switch_in_batches_and_go_back_together(
    boot: Boot, fleet: Shop, origin: Path, tmp_path: Path
) -> None:
    """Two that have nothing yet join the two that serve."""
    more = [boot(f"app{number}", requirements=REQUIREMENTS) for number in (3, 4)]
    try:
        four = Shop(tmp_path, (*fleet.servers, *more))
        four.configure()
        for server in more:
            prepare(server, origin)
        four.put_environment()
        four.install()
        four.fab("deploy", "--ref", "base", "--force", "--batch", "3", timeout=400)
        before = _moment(four)
        assert _serves(four) == [before.release] * 4
        assert _beats(four) == ["active", "inactive", "inactive", "inactive"]
        with stopped(four.servers[3], "nginx"):
            events = _events(four, "deploy", "--ref", "code-only", "--batch", "2", check=5)
        switched = [
            event["hosts"] for event in events if event["event"] == "phase_started" and event["name"] == "switch"
        ]
        assert switched == [["app1", "app2"], ["app3", "app4"]]
        assert events[-1]["serves"] == dict.fromkeys(("app1", "app2", "app3", "app4"), before.release)
        _assert_untouched(four, before)
    finally:
        for server in more:
            server.close()


# -- looking


def _serves(fleet: Shop) -> list[str]:
    """What each host's front door says, which must be what its `current` says."""
    said = [json.loads(fleet.get(server=server))["release"] for server in fleet.servers]
    assert said == [fleet.current(server) for server in fleet.servers]
    return said


def _described(server: Server) -> dict[str, Any]:
    return json.loads(server.run("cat /srv/pos/current/release.json").stdout)


def _schema(fleet: Shop) -> str:
    """Every column and every applied migration."""
    return fleet.server.run(
        """psql -qAt pos -c "select table_name, column_name, data_type, is_nullable from information_schema.columns
        where table_schema = 'public' order by 1, 2" -c "select app, name from django_migrations order by 1, 2" """,
        user="postgres",
    ).stdout


def _beats(fleet: Shop) -> list[str]:
    return [server.run("systemctl is-active pos-beat", check=False).stdout.strip() for server in fleet.servers]


def _beat_runs(fleet: Shop) -> str:
    """Which release the code of beat is from."""
    return fleet.server.run(
        "readlink /proc/$(systemctl show --property=MainPID --value pos-beat)/cwd | cut -d / -f 5"
    ).stdout.strip()


def _running(server: Server) -> set[str]:
    listed = "systemctl list-units --plain --no-legend --state=active,activating 'pos-*.service'"
    names = [line.split()[0] for line in server.run(listed).stdout.splitlines()]
    return {name.removeprefix("pos-").removesuffix(".service") for name in names}


def _locked(server: Server) -> bool:
    return server.run("flock -n -s /srv/pos/.releases/lock true", check=False).returncode != 0


def _building(server: Server) -> bool:
    return bool(server.run("ls -A /srv/pos/staging", check=False).stdout.strip())


def _files(server: Server) -> str:
    """Everything below the application's folder, with sizes and times."""
    return server.run("find /srv/pos -printf '%p %s %T@ %l\n' | grep -v __pycache__ | sort").stdout


def _events(fleet: Shop, *words: str, check: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fleet.fab(*words, "--json", check=check).stdout.splitlines()]


@dataclass(frozen=True)
class Moment:
    """What a failed deploy must not change: the live release, the schema, the releases on each host."""

    release: str
    schema: str
    kept: tuple[str, ...]


def _moment(fleet: Shop) -> Moment:
    kept = (server.run("ls /srv/pos/releases").stdout for server in fleet.servers)
    return Moment(fleet.current(), _schema(fleet), tuple(kept))


def _assert_untouched(fleet: Shop, before: Moment) -> None:
    """Every host serves the same release with everything it had, and nothing of the failed one is left or runs."""
    assert _serves(fleet) == [before.release] * len(fleet.servers)
    assert _moment(fleet) == before
    for server in fleet.servers:
        expected = {f"web@{before.release}", f"worker@{before.release}"} | (
            {"beat"} if server is fleet.server else set()
        )
        _await(lambda: _running(server) == expected, f"only the old release runs on {server.name}")  # noqa: B023
        assert not _building(server)
        assert not _locked(server)
    assert _beat_runs(fleet) == before.release


def _less_patient(fleet: Shop) -> None:
    toml = fleet.folder / "releases.toml"
    toml.write_text(toml.read_text().replace('deadline = "30s"', 'deadline = "15s"'))


def _whole(fleet: Shop) -> bool:
    """Every host answers, with the same release."""
    if not all(server.is_up for server in fleet.servers):
        return False
    ask = "curl -s -m 5 -H 'Host: pos.test' http://127.0.0.1/healthz"
    said = [server.run(ask, check=False).stdout for server in fleet.servers]
    return len(set(said)) == 1 and '"ok": true' in said[0] and fleet.current() in said[0]


def _await(fact: Callable[[], bool], said: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {said}"
        time.sleep(0.1)
