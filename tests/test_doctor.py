"""What a server's answers mean: how each is graded, and that no answer is one as well."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.model.config import Environment, Health, Host, Service, Stage
from tasks.model.facts import HostFacts
from tasks.model.finding import Finding, bad, look, ok
from tasks.model.server import Provision, Tls
from tasks.remote import doctor
from tasks.remote.doctor import application, machine, roles
from tasks.remote.doctor.question import Answer, Question
from tasks.report import findings

from .local_hosts import make_stage
from .test_report_docs import agrees

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOST = Host(name="web1", address="203.0.113.10")
STAGE = Stage(
    name="production",
    application="pos",
    repository="https://git.example.com/pos.git",
    deploy_to="/srv/pos",
    hosts=(HOST,),
    domain="pos.example.com",
    services={
        "web": Service(kind="web"),
        "worker": Service(kind="worker", application="pos", queues=("celery", "reports")),
        "beat": Service(kind="beat", application="pos"),
    },
)
ID = "20261122-101530-9f3c2ab"
RUNNING = HostFacts("web1", current=ID, units={f"web@{ID}": "active", f"worker@{ID}": "active", "beat": "active"})
CLEAN = "disk 40000000 20000000 /\ninodes 2000000 1500000 /"


def only(found: Iterator[Finding]) -> Finding:
    """The one finding, which must say what to do when somebody has to."""
    (one,) = found
    assert bool(one.hint) == (one.state in ("look", "bad")), one
    return one


def test_damaged_packages_of_the_live_release_are_named() -> None:
    good = Answer("compared")
    assert only(application.read_environment(good)).state == "ok"
    found = only(application.read_environment(Answer("damaged till\ttill/rates.py\tis missing\ncompared")))
    assert (found.state, found.value) == ("bad", "till: till/rates.py is missing")
    assert "fab deploy --force" in found.hint
    silent = Question("environment", ("ask_environment",), application.read_environment)
    assert [one.state for one in silent.heard(Answer("Traceback", status=1))] == ["look"]


def test_an_index_that_no_query_uses_and_the_other_databases_are_named() -> None:
    unfinished = POSTGRESQL.replace('"pending": []', '"pending": [], "unfinished": ["notes:item_name"]')
    found = only(application.read_database(Answer(unfinished)))
    assert (found.state, found.value) == ("look", "the index notes:item_name is not finished: no query uses it")
    assert found.hint.startswith("REINDEX INDEX CONCURRENTLY item_name")
    more = POSTGRESQL.replace('"pending": []', '"pending": [], "also": ["notes"], "left": ["legacy"]')
    assert only(application.read_database(Answer(more))).value.endswith(
        "migrated, as is notes; legacy is not ours to migrate"
    )


# -- the clock


@pytest.mark.parametrize(
    ("sent", "told", "heard", "state", "value"),
    [
        (100, 100.2, 100.4, "ok", "as yours"),
        (100, 101.9, 100.4, "ok", "as yours"),
        (100, 95, 108, "look", "5 s behind yours"),
        (100, 147, 100.4, "bad", "47 s ahead of yours"),
        (100, 69, 100.4, "bad", "31 s behind yours"),
        (100, 106, 107, "ok", "as yours"),  # a slow line is no wrong clock
    ],
)
def test_a_wrong_clock_is_told_from_a_slow_line(sent: float, told: float, heard: float, state: str, value: str) -> None:
    found = doctor.clock(sent, told, heard)
    assert found.state == state
    assert value in found.value
    assert (found.hint != "") == (state != "ok")


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("container none\nsynchronized yes", "ok"),
        ("container none\nsynchronized no", "look"),
        ("container \nsynchronized ", "look"),
        ("container systemd-nspawn\nsynchronized no", "ok"),
    ],
)
def test_a_clock_that_nobody_corrects_is_found_where_it_can_be(text: str, state: str) -> None:
    assert only(machine.read_time_sync(Answer(text))).state == state


# -- the machine


def _disk(text: str, minimum: str = "500MB") -> list[tuple[str, str]]:
    stage = replace(STAGE, minimum_free=minimum)
    return [(one.what, one.state) for one in machine.read_disk(Answer(text), stage, HOST)]


def test_a_disk_is_judged_by_what_a_deploy_needs_and_by_what_is_left() -> None:
    assert _disk(CLEAN) == [("disk", "ok"), ("inodes", "ok")]
    assert _disk(CLEAN + "\n" + CLEAN.replace("500000 /", "499999 /")) == [("disk", "ok"), ("inodes", "ok")], (
        "/ is shown once"
    )
    assert _disk("disk 40000000 2000000 /\ninodes 0 0 /") == [("disk", "look")], "btrfs counts no inodes"
    assert _disk("disk 40000000 2000000 /", "2GB") == [("disk", "bad")]
    assert _disk("disk 4000000000 90000000 /") == [("disk", "ok")], "2 %, and 86 GB"
    assert _disk("disk 90000000 80000000 /srv\ndisk 90000000 500 /") == [("disk", "ok"), ("disk", "bad")]
    assert _disk("disk 90000000 80000000 /srv\ndisk 90000000 90000 /data") == [("disk", "ok"), ("disk", "bad")]
    assert _disk("inodes 2000000 19000 /") == [("inodes", "bad")]
    assert _disk("inodes 2000000 60000 /") == [("inodes", "look")]


@pytest.mark.parametrize(
    ("total", "available", "swap", "swap_free", "state"),
    [
        (4_000_000, 2_000_000, 0, 0, "ok"),
        (1_000_000, 140_000, 0, 0, "look"),
        (8_000_000, 300_000, 0, 0, "look"),
        (4_000_000, 2_000_000, 1_000_000, 900_000, "ok"),
        (4_000_000, 2_000_000, 1_000_000, 100_000, "look"),
    ],
)
def test_memory_must_hold_a_release_beside_the_one_before(
    total: int, available: int, swap: int, swap_free: int, state: str
) -> None:
    text = f"MemTotal: {total}\nMemAvailable: {available}\nSwapTotal: {swap}\nSwapFree: {swap_free}"
    assert only(machine.read_memory(Answer(text), HOST)).state == state


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        ("uv uv 0.9.11\npython 3.12.4", "ok", "uv 0.9.11"),
        ("python 3.12.4\nvenv yes", "ok", "brought"),
        ("python 3.12.4", "bad", "apt-get install python3-venv"),
        ("missing python3.13 is not installed\nhint apt-get install python3.13", "bad", "python3.13"),
    ],
)
def test_a_python_that_makes_no_environment_is_found_before_a_deploy_does(text: str, state: str, says: str) -> None:
    found = only(machine.read_python(Answer(text), STAGE))
    assert found.state == state
    assert says in found.value + found.hint


def test_packages_that_were_asked_for_and_are_not_there_are_named() -> None:
    text = "package installed gettext\npackage config-files libpq5"
    found = only(machine.read_packages(Answer(text), ("gettext", "libpq5", "libmagic1")))
    assert (found.state, found.hint) == ("look", "apt-get install libpq5 libmagic1")
    assert only(machine.read_packages(Answer("lfs missing"), ())).state == "bad"
    assert only(machine.read_packages(Answer(""), ())).state == "ok"


def test_units_are_compared_with_what_releases_toml_says_now() -> None:
    expected = machine.sums(STAGE, HOST)
    said = [f"sum {text} {path}" for path, text in expected.items()]
    assert "/etc/nginx/sites-available/pos" in expected
    assert only(machine.read_units(Answer("\n".join(said)), expected)).state == "ok"
    edited = said[0].replace("sum ", "sum 0", 1)[:69] + said[0][68:]
    found = only(machine.read_units(Answer("\n".join([edited, *said[1:]])), expected))
    assert (found.state, found.value) == ("look", "not as releases.toml says: pos.service")
    gone = "absent /etc/systemd/system/pos-worker@.service"
    assert only(machine.read_units(Answer("\n".join([*said, gone])), expected)).state == "bad"
    assert "daemon-reload" in only(machine.read_units(Answer("\n".join([*said, "stale pos.service"])), expected)).hint


def test_sudo_must_allow_what_the_library_runs_and_nothing_else() -> None:
    commands = machine.sudo_commands(STAGE, HOST)
    assert commands == ("/usr/local/lib/fab-releases/pos-systemctl",)
    exact = f"rule (root) NOPASSWD: {commands[0]}"
    assert only(machine.read_sudo(Answer(exact), STAGE, 1)).state == "ok"
    refused = only(machine.read_sudo(Answer(f"refused {commands[0]}\nrefused another\n{exact}"), STAGE, 2))
    assert refused.state == "bad"
    assert "pos-systemctl and 1 more" in refused.value
    for rule in ("(ALL : ALL) ALL", "(ALL) NOPASSWD: ALL", "(root) NOPASSWD: /usr/bin/systemctl restart *"):
        assert only(machine.read_sudo(Answer(f"{exact}\nrule {rule}"), STAGE, 1)).state == "look", rule
    assert only(machine.read_sudo(Answer("missing"), STAGE, 1)).state == "bad"


LISTENS = """ssh 7822
listens 0.0.0.0:80 nginx
listens [::]:443
listens 0.0.0.0:7822
listens 127.0.0.1:5432
listens [::1]:6379
listens 127.0.0.53%lo:53
"""


def test_ports_of_the_machine_itself_and_of_its_users_are_nobodys_business() -> None:
    assert only(machine.read_ports(Answer(LISTENS), STAGE, HOST)).state == "ok"
    assert list(machine.read_ports(Answer("ssh 22"), STAGE, HOST)) == [], "an answer of nobody is none"


def test_a_database_open_to_the_world_is_bad_and_behind_a_firewall_worth_a_look() -> None:
    answer = Answer(LISTENS + "listens *:5432\nlistens 10.0.0.4%eth0:9000 node\nlistens [::]:5432")
    assert machine.exposed(STAGE, HOST, answer) == {5432: "PostgreSQL", 9000: "node"}
    shut = list(machine.read_ports(answer, STAGE, HOST))
    assert [one.state for one in shut] == ["look", "look"]
    reached = list(machine.read_ports(replace(answer, reached=frozenset({5432, 9000})), STAGE, HOST))
    assert [(one.state, one.value) for one in reached] == [
        ("bad", "5432 (PostgreSQL) is open to the world"),
        ("look", "9000 (node) is open to the world"),
    ]
    allowed = replace(STAGE, provision=Provision(allow=(5432, 9000)))
    assert only(machine.read_ports(answer, allowed, HOST)).state == "ok"


def test_the_hosts_of_a_fleet_share_a_database_that_the_world_does_not() -> None:
    fleet = replace(STAGE, hosts=(HOST, Host(name="web2", roles=("web",))))
    answer = Answer(LISTENS + "listens *:5432")
    assert only(machine.read_ports(answer, fleet, HOST)).state == "ok"
    assert only(machine.read_ports(replace(answer, reached=frozenset({5432})), fleet, HOST)).state == "bad"


# -- the application


def test_a_file_that_the_services_cannot_read_is_found_before_they_do() -> None:
    def read(text: str) -> Finding:
        return only(application.read_files(Answer(text), STAGE))

    assert read("file 640 .env.production").state == "ok"
    assert read("file 644 .env.production").hint == "chmod 640 /srv/pos/shared/.env.production"
    assert read("absent .env.production").hint == "fab env.push FILE"
    assert read("absent key.json").state == "bad"
    assert read("hidden .env.production\nfile 600 .env.production").state == "bad"
    assert read("closed .env.production").state == "bad"
    assert read("folder .env.production").state == "bad"


def test_services_that_do_not_run_or_run_again_and_again_are_named() -> None:
    def read(text: str, **units: str) -> list[Finding]:
        told = replace(
            RUNNING, units=RUNNING.units | {name.replace("_", f"@{ID}"): state for name, state in units.items()}
        )
        return list(application.read_services(Answer(text, facts=told), STAGE, HOST))

    assert [one.state for one in read("")] == ["ok"]
    (found,) = read("", worker_="failed")
    assert (found.state, found.value, found.hint) == ("bad", "worker is failed", "fab logs --service worker; fab start")
    assert [one.state for one in read("", worker_="draining")] == ["look"]
    old = ID.replace("2026", "2025")
    (found,) = read(f"restarts 3 pos-web@{ID}.service\nrestarts 9 pos-web@{old}.service")
    assert (found.state, found.value) == ("look", "web was started again 3 times")
    (found,) = read("restarts 1 pos-beat.service")
    assert found.value == "beat was started again once"
    (found,) = read("failed certbot.service")
    assert "systemctl status certbot.service" in found.hint
    missing = HostFacts("web1", current=ID)
    assert [one.state for one in application.read_services(Answer("", facts=missing), STAGE, HOST)] == ["bad"] * 3
    (found,) = application.read_services(Answer(""), STAGE, HOST)
    assert found.state == "skipped"


POSTGRESQL = (
    '{"vendor": "postgresql", "version": "15.14 (Debian)", "bytes": 9000000, "checksums": "on", '
    '"most": 100, "connections": 7, "pending": []}'
)


@pytest.mark.parametrize(
    ("change", "state", "says"),
    [
        (("", ""), "ok", "PostgreSQL 15.14, 9 MB, 7 of 100 connections"),
        (('"on"', '"off"'), "look", "pg_checksums"),
        (("7", "90"), "look", "90 of 100"),
        (("[]", '[], "role": "pos", "hidden": "till"'), "look", "hides rows of till from pos: no backup can be taken"),
        (("[]", '[], "role": "pos", "hidden": "till"'), "look", "ALTER ROLE pos BYPASSRLS"),
        (("[]", '["shop.0002_x"]'), "look", "shop.0002_x is not applied"),
        (("[]", '["a.1", "a.2", "a.3", "a.4"]'), "look", "a.1, a.2 and 2 more are not applied"),
        (('"version"', '"error": "OperationalError: refused", "version"'), "bad", "refused"),
    ],
)
def test_what_a_database_says_of_itself_is_judged(change: tuple[str, str], state: str, says: str) -> None:
    found = only(application.read_database(Answer(f"a warning\n{POSTGRESQL.replace(*change, 1)}")))
    assert found.state == state
    assert says in found.value + found.hint


REDIS = (
    '{"servers": [{"name": "REDIS_URL", "waiting": {"celery": 0, "reports": 0}, "redis_version": "7.0", '
    '"maxmemory": "0", "used_memory": "10", "maxmemory_policy": "allkeys-lru"}]}'
)


@pytest.mark.parametrize(
    ("change", "state", "says"),
    [
        (("", ""), "ok", "nothing waits"),
        (('"celery": 0', '"celery": 12'), "ok", "12 in celery"),
        (('"reports": 0', '"reports": 4000'), "look", "4000 in reports"),
        (('"maxmemory": "0"', '"maxmemory": "100"'), "look", "noeviction"),
        (
            (
                '"0", "used_memory": "10", "maxmemory_policy": "all',
                '"11", "used_memory": "10", "maxmemory_policy": "no',
            ),
            "look",
            "",
        ),
        (('"waiting"', '"error": "WRONGPASS", "waiting"'), "bad", "WRONGPASS"),
        ((REDIS, '{"servers": []}'), "skipped", "no variable"),
    ],
)
def test_a_redis_that_may_drop_tasks_or_is_full_of_them_is_noticed(
    change: tuple[str, str], state: str, says: str
) -> None:
    found = only(application.read_redis(Answer(REDIS.replace(*change))))
    assert found.state == state
    assert says in found.value + found.hint


@pytest.mark.parametrize(
    ("days", "state"), [(60, "ok"), (22, "ok"), (20, "look"), (4, "look"), (2, "bad"), (-1, "bad")]
)
def test_a_certificate_is_noticed_before_it_ends(days: int, state: str) -> None:
    ends = NOW + timedelta(days=days, hours=1)
    served = replace(STAGE, tls=Tls(certificate="certbot"))
    text = f"notAfter {ends:%b %d %H:%M:%S %Y} GMT"
    assert only(application.read_certificate(Answer(text), served, NOW)).state == state
    twice = list(application.read_certificate(Answer(f"{text}\nstranger"), served, NOW))
    assert twice[0].value == "is not for pos.example.com"
    assert only(application.read_certificate(Answer("none"), served, NOW)).state == "bad"


def test_a_certificate_is_asked_for_where_https_is_spoken() -> None:
    def asked(stage: Stage) -> list[tuple[object, ...]]:
        return [one.call[1:] for one in doctor.questions(stage, HOST, "main", NOW) if one.what == "certificate"]

    front = replace(STAGE, health=Health(front="https://www.example.com"))
    assert asked(STAGE) == []
    assert asked(replace(STAGE, tls=Tls(certificate="certbot"))) == [("127.0.0.1:443", "pos.example.com")]
    assert asked(front) == [("www.example.com:443", "www.example.com")]
    assert asked(replace(STAGE, health=Health(front="https://127.0.0.1:8443"))) == [
        ("127.0.0.1:8443", "pos.example.com")
    ]


def test_a_repository_that_cannot_be_read_says_so_in_its_own_words() -> None:
    assert only(application.read_git(Answer(f"revision {'a' * 40}"), "main")).value == "main is aaaaaaa"
    found = only(application.read_git(Answer("error cannot read x\nhint git ls-remote x"), "main"))
    assert (found.state, found.hint) == ("bad", "git ls-remote x")


# -- answers that do not come


def _asked(read: Callable[[Answer], Iterator[Finding]], **more: object) -> Question:
    return Question("disk", ("ask_disk",), read, **more)


def _broken(answer: Answer) -> Iterator[Finding]:
    yield ok("disk", str(int(answer.one("disk"))))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "no answer within 8 s"),
        (Answer("disk 1", None), "no answer within 8 s"),
        (Answer("disk 1", 124), "no answer within 8 s"),
        (Answer("df: command not found", 127), "df: command not found"),
        (Answer("", 1), "exit status 1"),
        (Answer("", 0), "not understood"),
    ],
)
def test_a_question_that_fails_is_a_finding_never_a_traceback(answer: Answer | None, says: str) -> None:
    (found,) = _asked(_broken).heard(answer)
    assert found.state == "look"
    assert says in found.value
    assert found.hint
    (found,) = _asked(lambda _: iter(())).heard(answer)
    assert found.state == "look"


def test_a_hung_database_is_bad_and_its_last_words_are_not_shown() -> None:
    asked = _asked(lambda answer: application.read_database(answer), silence="bad", quiet=True)
    assert asked.heard(Answer("", 124))[0].state == "bad"
    assert "hunter2" not in str(asked.heard(Answer("ValueError: hunter2", 1)))


def test_what_cannot_be_asked_yet_is_skipped_with_its_reason() -> None:
    (found,) = _asked(_broken).heard(Answer("skipped nothing is live here yet"))
    assert found == Finding("disk", "skipped", "nothing is live here yet")


def _mark(what: str, text: str, status: int | None = 0) -> tuple[str, ...]:
    whole = text if status is None else f"{text}\nstatus {status}\n"
    return "answer", what, base64.b64encode(whole.encode()).decode()


def test_one_host_gives_a_finding_for_every_question_even_if_it_says_nothing() -> None:
    asked = doctor.questions(STAGE, HOST, "main", NOW)
    silent = list(doctor.read(asked, [], "web1"))
    assert [one.what for one in silent] == [one.what for one in asked]
    assert {one.state for one in silent} == {"look", "bad"}
    marks = [
        _mark("survey", ""),
        ("fact", "current", ID),
        ("fact", "lock", "anna"),
        _mark("disk", CLEAN),
        _mark("git", "", None),
    ]
    found = {one.what: one for one in doctor.read(asked, marks, "web1")}
    assert found["lock"].state == "bad"
    assert found["disk"].state == "ok"
    assert found["git"].state == "bad"
    assert found["release"].value == f"{ID} is live"


def test_what_stands_in_the_way_of_every_plan_is_among_the_findings() -> None:
    facts = HostFacts(
        "web1",
        freeze="stock taking\n",
        maintenance=True,
        leftovers=("staging/x",),
        problems=(("git is not installed", "apt-get install git"), ("/srv/pos/current is a real directory", "move it")),
    )
    states = {one.what: one.state for one in doctor.surveyed(facts)}
    assert states == {
        "freeze": "bad",
        "maintenance": "look",
        "leftover": "look",
        "tools": "bad",
        "folder": "bad",
        "release": "skipped",
    }


def test_a_host_without_releases_is_asked_about_itself_only() -> None:
    asked = [one.what for one in doctor.questions(STAGE, replace(HOST, roles=()), "main", NOW)]
    assert asked == ["disk", "memory", "time-sync", "ports", "services"]


FLEET = (
    Host(name="front", address="10.0.0.1", roles=("balancer",)),
    Host(name="web1", address="10.0.0.2", roles=("web", "worker", "beat", "db")),
    Host(name="data", address="10.0.0.3", roles=("postgresql", "redis")),
    Host(name="copy", address="10.0.0.4", roles=("replica",)),
)


def test_each_host_of_a_fleet_is_asked_what_it_is_there_for() -> None:
    stage = replace(STAGE, hosts=FLEET, provision=Provision(pgbouncer=True), tls=Tls(certificate="certbot"))
    asked = {host.name: [one.what for one in doctor.questions(stage, host, "main", NOW)] for host in FLEET}
    everywhere = ["disk", "memory", "time-sync", "ports"]
    assert asked["data"] == [*everywhere, "services", "postgresql", "pgbouncer", "redis-server"]
    assert asked["copy"] == [*everywhere, "services", "replica"]
    front = ["disk", "memory", "time-sync", "units", "sudo", "ports", "services", "balancer", "renewal", "certificate"]
    assert asked["front"] == front
    assert {"certificate", "renewal", "balancer"}.isdisjoint(asked["web1"])
    assert machine.folders(stage, FLEET[2]) == ("/var/lib/postgresql", "/var/lib/redis")
    assert list(machine.sums(stage, FLEET[0])) == ["/etc/nginx/sites-available/pos"]
    assert machine.sudo_commands(stage, FLEET[0]) == (
        "/usr/local/sbin/pos-balance drain web1",
        "/usr/local/sbin/pos-balance undrain web1",
    )


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        (
            "recovery false\nversion 15.14\nslot pos_replica_copy true reserved",
            "ok",
            "15.14 takes writes, copy follows",
        ),
        ("recovery false\nversion 15.14\nslot pos_replica_copy false reserved", "look", "fab -H copy check"),
        ("recovery false\nversion 15.14\nslot pos_replica_copy false lost", "look", "pg_dropcluster"),
        ("recovery false\nversion 15.14", "look", "copy can follow it no more"),
        (
            "recovery false\nversion 15.14\nslot pos_replica_copy true reserved\nslot pos_replica_old false reserved",
            "look",
            "pg_drop_replication_slot('pos_replica_old')",
        ),
        ("recovery true\nversion 15.14", "bad", "takes no writes"),
        ('refused FATAL:  role "deploy" does not exist', "look", "fab provision"),
        ("down", "bad", "systemctl status"),
    ],
)
def test_a_database_that_takes_no_writes_or_that_nobody_follows_is_found(text: str, state: str, says: str) -> None:
    found = only(roles.read_primary(Answer(text), replace(STAGE, hosts=FLEET)))
    assert found.state == state
    assert says in found.value + found.hint


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        ("recovery true\nreceiving true\nbehind 0", "ok", "follows data, 0 s behind"),
        ("recovery true\nreceiving true\nbehind 61", "look", "61 s behind"),
        ("recovery true\nreceiving false\nbehind 900", "look", "hears nothing of data"),
        ("recovery false\nreceiving false\nbehind 0", "look", "a database of its own"),
        ("down", "look", "does not answer"),
    ],
)
def test_a_copy_that_is_late_deaf_or_no_copy_is_found(text: str, state: str, says: str) -> None:
    found = only(roles.read_copy(Answer(text), replace(STAGE, hosts=FLEET)))
    assert found.state == state
    assert says in found.value


def test_a_balancer_that_passes_nobody_on_is_found() -> None:
    def read(text: str) -> list[tuple[str, str]]:
        found = list(roles.read_balancer(Answer(text)))
        assert all(bool(one.hint) == (one.state != "ok") for one in found)
        return [(one.state, one.value) for one in found]

    assert read("well web1 answers\nwell web2 answers") == [("ok", "web1, web2 answer it")]
    assert read("well web1 answers\nill web2 is drained") == [("look", "web2 is drained"), ("ok", "web1 answers it")]
    assert read("ill web1 does not answer\nill web2 answers 502") == [
        ("look", "web1 does not answer"),
        ("look", "web2 answers 502"),
    ]
    assert read("ill nginx does not run") == [("bad", "nginx does not run")]
    assert read("ill it is not set up") == [("bad", "it is not set up")]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("enabled enabled\nactive active\nlast success", "ok"),
        ("enabled enabled\nactive inactive\nlast success", "look"),
        ("enabled disabled\nactive active\nlast success", "look"),
        ("enabled \nactive inactive\nlast ", "look"),
        ("enabled enabled\nactive active\nlast exit-code", "look"),
    ],
)
def test_a_certificate_that_nothing_renews_is_found(text: str, state: str) -> None:
    assert only(roles.read_renewal(Answer(text))).state == state


def test_users_come_in_where_the_web_hosts_are_unless_something_stands_before_them() -> None:
    worker, front = Host(name="web2", roles=("worker",)), Host(name="front", roles=("balancer",))
    served = replace(STAGE, hosts=(HOST, worker), tls=Tls(certificate="certbot"))
    assert [doctor.doors(served, host) for host in served.hosts] == [(80, 443), ()]
    balanced = replace(served, hosts=(HOST, worker, front))
    assert [doctor.doors(balanced, host) for host in balanced.hosts] == [(), (), (80, 443)]
    asked = [[one.what for one in doctor.questions(balanced, host, "main", NOW)] for host in balanced.hosts]
    assert ["certificate" in names for names in asked] == [False, False, True]


def test_the_sandbox_is_asked_nothing_that_only_servers_have() -> None:
    stage = replace(STAGE, manager="supervisor", environment=Environment(file=""))
    local = replace(HOST, transport="local")
    assert {one.what for one in doctor.questions(stage, local, "HEAD", NOW)}.isdisjoint(
        {"units", "sudo", "ports", "certificate", "backup", "packages", "time-sync", "files"}
    )


@pytest.mark.parametrize(
    ("why", "state", "hint"),
    [("", "ok", ""), ("Name or service not known", "look", "DNS"), ("Connection refused", "look", "nginx")],
)
def test_a_door_that_users_cannot_find_is_told_from_one_that_is_shut(why: str, state: str, hint: str) -> None:
    found = doctor.door("pos.example.com", 80, why)
    assert found.state == state
    assert hint in found.hint


# -- how it is shown

FOUND = {
    "web1": (ok("disk", "20 GB free"), look("clock", "5 s behind yours", "timedatectl set-ntp true")),
    "web2": (bad("ssh", "no connection\x1b[31m", "is it up?"),),
}


def test_a_line_of_plain_output_says_everything_by_itself() -> None:
    assert findings.to_text(FOUND, aligned=False).splitlines() == [
        "web1 ok disk: 20 GB free",
        "web1 look clock: 5 s behind yours -> timedatectl set-ntp true",
        r"web2 bad ssh: no connection\x1b[31m -> is it up?",
        "not ready to deploy: 1 thing bad, 1 to look at",
    ]


def test_a_terminal_gets_columns_under_the_name_of_the_host() -> None:
    lines = findings.to_text(FOUND, aligned=True).splitlines()
    assert lines[0] == "web1"
    assert lines[1].index("20 GB") == lines[2].index("5 s behind")
    assert "\x1b" not in "".join(lines)


def test_programs_get_the_same_findings() -> None:
    told = findings.to_json(FOUND, "production")
    assert not told["ready"]
    assert told["hosts"]["web1"][0] == {"what": "disk", "state": "ok", "value": "20 GB free", "hint": ""}
    assert findings.to_json({"web1": FOUND["web1"]}, "production")["ready"]
    assert findings.to_text({"web1": FOUND["web1"]}, aligned=False).endswith("ready to deploy; 1 thing to look at\n")


def test_what_programs_get_is_documented() -> None:
    told = findings.to_json(FOUND, "production")
    agrees(told, "`fab check --json`")
    for one in told["hosts"]["web1"]:
        agrees(one, "A finding")


def test_every_thing_that_is_asked_has_a_row_in_its_page() -> None:
    page = (Path(__file__).parents[1] / "docs/how-to/find-out-what-is-wrong.md").read_text()
    rows = {
        name for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    served = replace(STAGE, tls=Tls(certificate="certbot"))
    fleet = replace(served, hosts=FLEET, provision=Provision(pgbouncer=True))
    asked = {one.what for one in doctor.questions(served, HOST, "main", NOW)}
    asked |= {one.what for host in FLEET for one in doctor.questions(fleet, host, "main", NOW)}
    assert asked <= rows, asked - rows


@pytest.mark.parametrize(
    ("key", "trouble", "said"),
    [
        ("same", "", {"repository-key": "ok", "repository": "ok"}),
        ("other", "", {"repository-key": "look", "repository": "ok"}),
        ("unasked", "", {"repository-key": "look", "repository": "ok"}),
        ("missing", "", {"repository-key": "look"}),
        ("same", "it did not answer in 10 s", {"repository-key": "ok", "repository": "look"}),
    ],
)
def test_a_repository_that_does_not_open_and_a_key_that_is_not_here_are_findings(
    tmp_path: Path, key: str, trouble: str, said: dict[str, str]
) -> None:
    here = make_stage(tmp_path)
    here = replace(here, backup=replace(here.backup, repository="sftp:backup@203.0.113.9:/srv/pos"))
    told = Answer(json.dumps({"place": here.backup.repository, "key": key, "trouble": trouble}))
    found = list(doctor.backups.read_repository(told, here, here.primary, "~/pos.key"))
    assert {one.what: one.state for one in found} == said
    assert all(one.hint for one in found if one.state != "ok")
