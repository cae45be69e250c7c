"""How a deploy looks from outside: what users are answered meanwhile, and what is left on the server afterwards."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from subprocess import CompletedProcess

from tests.meanwhile import every
from tests.servers import Server
from tests.servers.shop import Shop

GENERATIONS = (
    "systemctl list-units --plain --no-legend --full 'pos-*@*' | sed -n 's/^[^ ]*@\\(.*\\)\\.[a-z]* .*/\\1/p' | sort -u"
)


@dataclass
class Seen:
    """Every answer of a page: (status, release id); status 0 is no answer at all."""

    answers: list[tuple[int, str]] = field(default_factory=list)

    @property
    def releases(self) -> set[str]:
        return {release for _, release in self.answers if release}


def ask(server: Server, path: str = "/healthz") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.address, 80, timeout=15)
    try:
        connection.request("GET", path, headers={"Host": "pos.test"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
    with suppress(ValueError, AttributeError):
        return answer.status, json.loads(body).get("release", "")
    return answer.status, ""


@contextmanager
def watched(server: Server) -> Iterator[Seen]:
    """Asks the live page ten times a second until the block is over, and at least twice."""
    seen = Seen()

    def look() -> None:
        seen.answers.append(ask(server))

    look()
    with every(0.1, look):
        yield seen
    look()


@contextmanager
def unseen(shop: Shop) -> Iterator[str]:
    """Users see no change in this block: every answer is 200 and from the release that was live before.

    Afterwards nothing of any other new release is on the server: no folder, no process, no failed unit.
    """
    before, kept = shop.current(), releases(shop)
    with watched(shop.server) as seen:
        yield before
    strange = [answer for answer in seen.answers if answer != (200, before)]
    assert not strange, f"{len(strange)} of {len(seen.answers)} answers were not 200 from {before}: {strange[:5]}"
    nothing_left(shop, before, kept)


def nothing_left(shop: Shop, current: str, kept: set[str]) -> None:
    assert shop.current() == current
    assert shop.server.run("ls -A /srv/pos/staging; ls -d /srv/pos/.current.* 2>/dev/null || true").stdout == ""
    assert releases(shop) == kept
    named, linked = "ls /srv/pos/environments", "readlink /srv/pos/releases/*/.venv | xargs -rn1 basename | sort -u"
    assert shop.server.run(named).stdout == shop.server.run(linked).stdout
    await_that(lambda: generations(shop) == {current}, lambda: f"units of {generations(shop)}, not only {current}")


def releases(shop: Shop) -> set[str]:
    return set(shop.server.run("ls /srv/pos/releases").stdout.split())


def generations(shop: Shop) -> set[str]:
    """Releases that systemd knows units of, running or failed."""
    return set(shop.server.run(GENERATIONS).stdout.split())


def await_that(fact: Callable[[], bool], said: Callable[[], str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


def deploy_another(shop: Shop) -> str:
    """The next good deploy: `base` or `code-only`, whichever is not live. The id of the new release."""
    before = shop.current()
    ref = "code-only" if "oat milk" not in shop.get("/") else "base"
    shop.fab("deploy", "--ref", ref)
    after = shop.current()
    assert after != before
    assert ask(shop.server) == (200, after)
    return after


def edit(shop: Shop, *changes: tuple[str, str]) -> None:
    """Changes releases.toml; AssertionError unless what is to be changed is there exactly once."""
    path = shop.folder / "releases.toml"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in releases.toml"
        text = text.replace(old, new)
    path.write_text(text)


def sell(shop: Shop, uid: str) -> int:
    """The status a till gets."""
    body = json.dumps({"uid": uid, "product": sku(shop), "quantity": 1})
    return int(
        shop.server.run(
            "curl -s -o /dev/null -w '%{http_code}' -m 20 -H 'Host: pos.test' -H 'Content-Type: application/json' "
            "--data @- http://127.0.0.1/api/sales/",
            input=body,
        ).stdout
    )


def sku(shop: Shop) -> str:
    return sql(shop, "select sku from inventory_product order by id limit 1").strip()


def sql(shop: Shop, query: str) -> str:
    return shop.server.run("psql -XAtq pos", user="postgres", input=query).stdout


def said(done: CompletedProcess[str]) -> str:
    """Everything a person read, as one line."""
    return " ".join((done.stdout + done.stderr).split())
