"""Applications and stages on one server: each is set up and deployed beside the others, and reaches none of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import Boot
from tests.servers import Server
from tests.servers.shop import Shop, fill

pytestmark = pytest.mark.server
WATCHED = "/root/answers"
WATCH = f"""\
while sleep 0.05; do
  curl -s -o /dev/null -m 20 -w '%{{{{http_code}}}}\\n' -H 'Host: {{domain}}' http://127.0.0.1/healthz
done >{WATCHED}
"""


@dataclass(frozen=True)
class Side(Shop):
    """One of several on the same server, as its own team has it."""

    application: str = "shop"
    stage: str = "production"

    @property
    def name(self) -> str:
        """What it is called on the server."""
        return self.application if self.stage == "production" else f"{self.application}--{self.stage}"

    @property
    def account(self) -> str:
        return f"app-{self.name}"

    @property
    def domain(self) -> str:
        return f"{self.name.replace('--', '.')}.test"

    def configure(self, more: str = "", roles: Sequence[str] = (), addresses: Sequence[tuple[str, int]] = ()) -> None:
        super().configure(more, roles, addresses)
        path = self.folder / "releases.toml"
        text = path.read_text().replace('application = "pos"', f'application = "{self.application}"', 1)
        text = text.replace('"/srv/pos"\napp_user = "app"', f'"/srv/{self.name}"').replace("pos.test", self.domain)
        path.write_text(text.replace("[stages.production]", f"[stages.{self.stage}]"))

    def ask(self, path: str = "/healthz") -> str:
        return self.server.run(f"curl -sS -m 20 -H 'Host: {self.domain}' http://127.0.0.1{path}").stdout

    def password(self, variable: str) -> str:
        text = self.server.run(f"cat /srv/{self.name}/shared/.env.production").stdout
        line = next(one for one in text.splitlines() if one.startswith(f"{variable}="))
        return unquote(urlsplit(line.partition("=")[2]).password or "")

    def upload(self) -> None:
        path = f"/srv/{self.name}/shared/media/receipt.txt"
        self.server.put(path, "thank you", mode=0o660, owner=f"{self.account}:{self.account}")

    def units(self) -> dict[str, str]:
        """Those of its releases that run -> their main process."""
        shown = self.server.run(f"systemctl show -p Id,MainPID,ActiveState '{self.name}-*@[0-9]*.service'").stdout
        found = (dict(line.split("=", 1) for line in one.splitlines()) for one in shown.split("\n\n") if one.strip())
        ours = {f"{self.name}-{service}" for service in ("web", "worker")}
        running = (one for one in found if one["ActiveState"] == "active")
        return {one["Id"]: one["MainPID"] for one in running if one["Id"].partition("@")[0] in ours}


@dataclass(frozen=True)
class Pair:
    """Two applications of which one's name begins with the other's."""

    shop: Side
    admin: Side


def side(server: Server, folder: Path, application: str, stage: str = "production") -> Side:
    made = Side(folder, (server,), application=application, stage=stage)
    made.folder.mkdir(parents=True, exist_ok=True)
    made.configure()
    return made


@contextmanager
def serving(one: Side) -> Iterator[None]:
    """No request to it fails meanwhile."""
    server = one.server
    server.put("/root/watch", WATCH.format(domain=one.domain))
    server.run(f"rm -f {WATCHED}; systemd-run --quiet --unit watch-{one.name} bash /root/watch")
    try:
        yield
    finally:
        server.run(f"systemctl stop watch-{one.name}")
    answers = server.run(f"cat {WATCHED}").stdout.split()
    assert len(answers) > 5
    assert set(answers) == {"200"}, f"{one.name}: {sorted(set(answers))}"


@pytest.fixture(scope="module")
def pair(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """`shop` serves, and has an upload; then `shop-admin` is set up and deployed beside it."""
    server = boot("bare", bare=True)
    folder = tmp_path_factory.mktemp("sides")
    shop, admin = side(server, folder / "shop", "shop"), side(server, folder / "admin", "shop-admin")
    shop.fab("provision", "--yes", timeout=600)
    fill(server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)
    with serving(shop):
        admin.fab("provision", "--yes", timeout=600)
        admin.fab("deploy", "--ref", "base", timeout=400)
    shop.upload()
    admin.upload()
    return Pair(shop, admin)


def test_a_second_application_is_set_up_and_deployed_beside_the_first(pair: Pair) -> None:
    for one in (pair.shop, pair.admin):
        told = json.loads(one.ask())
        assert (told["ok"], told["database"], told["cache"]) == (True, "ok", "ok")
        assert one.ask("/media/receipt.txt") == "thank you", "nginx reads the uploads of each"
        variables = f"/srv/{one.name}/shared/.env.production"
        assert one.server.run(f"cat {variables}", user="www-data", check=False).returncode != 0, "and no variables"
        again = one.fab("provision", "--yes")
        assert "nothing to do" in again.stderr, again.stderr
    for mine, other in ((pair.shop, pair.admin), (pair.admin, pair.shop)):
        shown = mine.fab("status", check=None).stdout
        assert mine.units()
        assert not any(other.current() in line for line in shown.splitlines()) or mine.current() == other.current()


ATTACKS = {
    "list its folder": "ls /srv/{name}",
    "read its releases": "cat /srv/{name}/current/release.json /srv/{name}/releases/*/release.json",
    "read its variables": "cat /srv/{name}/shared/.env.production",
    "list its uploads": "ls /srv/{name}/shared/media",
    "read an upload": "cat /srv/{name}/shared/media/receipt.txt",
    "change an upload": "echo spoiled >/srv/{name}/shared/media/receipt.txt",
    "plant an upload": "echo planted >/srv/{name}/shared/media/planted.html",
    "remove an upload": "rm -f /srv/{name}/shared/media/receipt.txt && ! ls /srv/{name}/shared/media/receipt.txt",
    "speak to its socket": "curl -sS -m 5 --unix-socket /srv/{name}/current/web.sock http://x/",
    "speak to its socket by its own name": (
        "for one in /run/{name}/*.sock; do curl -sS -m 5 -H 'X-Forwarded-For: 192.0.2.1' --unix-socket $one "
        "http://x/ && exit 0; done; exit 1"
    ),
    "end its processes": "pkill -u {account} -0",
    "use its database": "PGPASSWORD='{database}' psql -h 127.0.0.1 -U {mine} -d {name} -c 'select 1'",
    "be its role": "PGPASSWORD='{database}' psql -h 127.0.0.1 -U {name} -d {name} -c 'select 1'",
    "use its Redis": (
        "for port in 6379 6380; do redis-cli -p $port --user {name} --pass '{redis}' ping; done | grep -q PONG"
    ),
    "use its Redis by its own name": "redis-cli -p {port} --user {mine} --pass '{redis}' ping | grep -q PONG",
    "become another": "sudo -n true",
}
NEEDS_ANOTHER = {"use its database", "use its Redis by its own name", "remove an upload", "become another"}
"""What would say nothing, said of oneself."""


@pytest.mark.parametrize("attacker", ["shop", "admin"])
def test_an_application_reaches_nothing_of_another(pair: Pair, attacker: str) -> None:
    mine, other = (pair.shop, pair.admin) if attacker == "shop" else (pair.admin, pair.shop)
    words = {
        "mine": mine.name,
        "database": mine.password("DATABASE_URL"),
        "redis": mine.password("REDIS_URL"),
        "port": 6380 if attacker == "shop" else 6379,
    }

    other.upload()

    def succeeds(what: str, whose: Side) -> bool:
        command = ATTACKS[what].format(**words, name=whose.name, account=whose.account)
        return mine.server.run(command, user=mine.account, check=False).returncode == 0

    assert mine.server.run(f"id -nG {mine.account}").stdout.split() == [mine.account, f"env-{mine.account}"]
    assert not [what for what in ATTACKS if succeeds(what, other)]
    assert not [what for what in ATTACKS.keys() - NEEDS_ANOTHER if not succeeds(what, mine)], "it shows nothing"
    assert other.ask("/media/receipt.txt") == "thank you"


def test_deploying_and_stopping_one_leaves_the_other_serving(pair: Pair) -> None:
    """The shorter name is a beginning of the longer one's, and of the names of its services."""
    before = pair.admin.units()
    assert len(before) == 2
    with serving(pair.admin):
        pair.shop.fab("deploy", "--ref", "code-only", timeout=400)
        pair.shop.fab("rollback", "--yes", timeout=200)
        pair.shop.fab("repair")
        pair.shop.fab("cleanup", check=None)
        pair.shop.fab("stop", "--yes")
        assert not pair.shop.units()
        time.sleep(1)
    assert pair.admin.units() == before, "the same processes"
    pair.shop.fab("start", check=None)


@pytest.mark.nightly
def test_two_stages_of_one_application_live_on_one_server(pair: Pair, tmp_path: Path) -> None:
    """The second one's name, account, database and Redis are its own, and so is what provisioning puts back."""
    staging = side(pair.shop.server, tmp_path / "staging", "shop", "staging")
    with serving(pair.admin):
        staging.fab("provision", "--yes", timeout=600)
        staging.fab("deploy", "--ref", "base", timeout=400)
    for one in (staging, pair.shop, pair.admin):
        assert json.loads(one.ask())["ok"] is True
        assert "nothing to do" in one.fab("provision", "--yes").stderr
    assert staging.password("REDIS_URL") != pair.shop.password("REDIS_URL")
    refused = staging.server.run("cat /srv/shop/shared/.env.production", user=staging.account, check=False)
    assert refused.returncode != 0
    staging.fab("stop", "--yes")
    assert pair.shop.units()
    assert json.loads(pair.shop.ask())["ok"] is True


def test_what_another_stage_has_is_refused_before_anything_is_made(pair: Pair, tmp_path: Path) -> None:
    """A third one with the domain of the first, its folder, or a service that would be called as one of the second."""
    other = side(pair.shop.server, tmp_path / "other", "other")
    path = other.folder / "releases.toml"
    text = path.read_text()
    for old, new, reason in (
        ('"other.test"', '"shop.test"', "domain shop.test belongs to shop, stage production"),
        ('"/srv/other"', '"/srv/shop/other"', "folder /srv/shop/other beside folder /srv/shop belongs to shop"),
        ('domain = "other.test"\n', "", "domain every name beside domain shop"),
    ):
        path.write_text(text.replace(old, new))
        said = other.fab("provision", "--yes", check=None)
        assert said.returncode != 0
        assert reason in said.stderr
    assert pair.shop.server.run("id app-other", check=False).returncode != 0, "nothing was made"
