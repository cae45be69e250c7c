"""Whether anybody notices: twenty deploys and five rollbacks while people buy, and tasks and beat go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.servers.shop import Shop

from .load import Answer, Load, Watch, assert_none, latencies, load, percentile, sales, watch

pytestmark = pytest.mark.server

RATE = 200
BEAT_SECONDS = 2
"""As POS_BEAT_SECONDS of the shop."""
DEPLOYS = (
    *("code-only", "new-requirement", "base", "code-only", "back"),
    *("new-requirement", "base", "code-only", "base", "back"),
    *("base", "additive-migration", "base", "code-only", "back"),
    *("base", "base", "code-only", "new-requirement", "base"),
    *("back", "code-only", "base", "new-requirement", "back"),
)
"""20 revisions and 5 ways back; without --nightly the first five of them, one of each kind.

From a release that migrated nobody goes back here: that takes a column away again.
"""
WITH_TASKS = (1, 6, 12)
"""Deploys that begin with tasks in flight."""


@dataclass
class Storm:
    """What was measured."""

    rate: float
    base: list[Answer]
    users: Load
    looking: Watch
    went_live: list[str] = field(default_factory=list)
    windows: list[tuple[str, float, float]] = field(default_factory=list)
    """(what, from, until) of each deploy and rollback."""
    tasks: list[int] = field(default_factory=list)
    beats: set[int] = field(default_factory=set)
    """How many beat processes there were at each look."""
    ticks: int = 0
    seconds: float = 0

    def within(self, since: float, until: float) -> list[Answer]:
        return [answer for answer in self.users.answers if since <= answer.due <= until]

    def figures(self) -> Iterator[str]:
        answers = self.users.answers
        durations = [until - since for _, since, until in self.windows]
        worst = max(self.windows, key=lambda one: percentile([a.latency for a in self.within(*one[1:])], 0.99))
        failed = [answer for answer in answers if not answer.ok]
        yield f"{len(self.windows)} switches in {sum(durations):.0f} s, the longest {max(durations):.1f} s"
        yield f"{len(failed)} failed of {len(answers)}, {self.rate:.0f}/s; {sum(1 for one in answers if one.uid)} sales"
        yield f"without deploys    {latencies(self.base)}"
        yield f"all the time       {latencies(answers)}"
        yield f"worst: {worst[0]:<12}{latencies(self.within(*worst[1:]))}"
        yield f"beat: {self.ticks} ticks in {self.seconds:.0f} s, processes at a look: {sorted(self.beats)}"


@pytest.fixture(scope="module")
def shop(shop: Shop) -> Shop:
    """As many processes as there are processors: one alone would be the limit of what the machine can bear."""
    both = replace(shop, workers=2)
    both.configure()
    both.fab("deploy", "--ref", "base", "--force")
    return both


@pytest.fixture(scope="module")
def storm(shop: Shop, request: pytest.FixtureRequest, alone: Callable[[], AbstractContextManager[None]]) -> Storm:
    shop.server.settle()
    # Debian's 768 drops a queue of four seconds. How many a machine can hold is not what is asked here.
    shop.server.run(
        "sed -i 's/worker_connections .*/worker_connections 8192;/; 1i worker_rlimit_nofile 20000;' "
        "/etc/nginx/nginx.conf && nginx -q -t && systemctl restart nginx"
    )
    with alone():  # what the machine can bear is measured once, and must not be taken away meanwhile
        storm = weather(shop, DEPLOYS if request.config.getoption("--nightly") else DEPLOYS[:5])
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *storm.figures(), sep="\n  ")
    return storm


def weather(shop: Shop, deploys: Sequence[str]) -> Storm:
    rate, base = sustained(shop)
    # The watch begins before the users: an answer from before its first look could not be told from a wrong one.
    with counted_beats(shop) as beats, watch(shop.server) as looking, load(shop.server.address, rate) as users:
        storm = Storm(rate, base, users, looking, beats=beats)
        before, started = ticks(shop), time.monotonic()
        for number, what in enumerate(deploys):
            users.await_calm()  # what is measured is a deploy, not the crowd that waits since the one before
            if number in WITH_TASKS:
                storm.tasks += [report(shop, 5) for _ in range(2)]
            since = time.monotonic()
            words = ("rollback", "--yes") if what == "back" else ("deploy", "--force", "--ref", what)
            shop.fab(*words, timeout=300)
            storm.windows.append((what, since, time.monotonic()))
            storm.went_live.append(shop.current())
        storm.ticks, storm.seconds = ticks(shop) - before, time.monotonic() - started
    return storm


def sustained(shop: Shop) -> tuple[float, list[Answer]]:
    """What this machine can answer a second while nothing is deployed, and how it did."""
    for rate in (RATE, 140, 100, 70, 50, 30, 20):
        with load(shop.server.address, rate) as users:
            time.sleep(5)
        if percentile([answer.latency for answer in users.answers], 0.5) < 0.1:
            break
    assert_none(answer for answer in users.answers if not answer.ok)
    return rate, users.answers


def ask(shop: Shop, query: str) -> str:
    return shop.server.run(f'psql -qAt -d pos -c "{query}"', user="postgres").stdout.strip()


def ticks(shop: Shop) -> int:
    return int(ask(shop, "select count(*) from reports_heartbeat"))


def report(shop: Shop, seconds: float) -> int:
    """A task of this length, asked for by a user; its number."""
    body = json.dumps({"seconds": seconds})
    asked = f"curl -sS -m 30 -H 'Host: pos.test' -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1/api/reports/"
    return int(json.loads(shop.server.run(asked).stdout)["id"])


@contextmanager
def counted_beats(shop: Shop) -> Iterator[set[int]]:
    """How many beat processes there were, looked at five times a second, inside the server."""
    seen: set[int] = set()
    loop = "while [ -e /run/count ]; do pgrep -u app -f -c '[c]elery.* beat'; sleep 0.2; done"
    shop.server.run("touch /run/count")
    thread = threading.Thread(
        target=lambda: seen.update(map(int, shop.server.run(f"({loop}) | sort -u", timeout=1200).stdout.split()))
    )
    thread.start()
    try:
        yield seen
    finally:
        shop.server.run("rm /run/count")
        thread.join()


def test_a_user_gets_an_error_because_somebody_deploys(storm: Storm) -> None:
    assert_none(answer for answer in storm.users.answers if not answer.ok)
    assert len(storm.users.answers) > storm.rate * storm.seconds * 0.9, "the load was not there"


def test_a_sale_that_was_answered_is_not_in_the_books(shop: Shop, storm: Storm) -> None:
    stored = sales(shop.server, storm.users)
    answered = {answer.uid for answer in storm.users.answers if answer.uid and answer.ok}
    assert len(answered) > 100
    assert answered - set(stored) == set(), "answered and lost"
    assert len(stored) == len(set(stored)), "sold twice"


def test_a_release_that_is_not_live_answers_somebody(storm: Storm) -> None:
    """Neither before its switch nor after the next one: the change is one step for everybody."""
    assert_none(one for one in storm.users.answers if one.release and not storm.looking.was_live(one))
    assert all(answer.release for answer in storm.users.answers if answer.ok and answer.kind != "static")
    assert {answer.release for answer in storm.users.answers} >= set(storm.went_live), "a release answered nobody"


def test_a_deploy_goes_forth_and_back(storm: Storm) -> None:
    assert storm.looking.releases[1:] == storm.went_live


def test_a_task_in_flight_is_lost_or_done_twice(shop: Shop, storm: Storm) -> None:
    numbers = ",".join(map(str, storm.tasks))
    waiting = f"select count(*) from reports_report where id in ({numbers}) and built_at is null"
    deadline = time.monotonic() + 60
    while ask(shop, waiting) != "0" and time.monotonic() < deadline:
        time.sleep(0.5)
    done = ask(shop, f"select runs from reports_report where id in ({numbers}) and built_at is not null").split()
    assert done == ["1"] * len(storm.tasks)


def test_two_beats_send_everything_twice(storm: Storm) -> None:
    assert storm.beats <= {0, 1}, "two at a time"
    assert 1 in storm.beats
    most = storm.seconds / BEAT_SECONDS
    assert 0.3 * most < storm.ticks <= most + 3, f"{storm.ticks} ticks in {storm.seconds:.0f} s"
