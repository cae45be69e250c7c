"""A server that scripts made becomes one of ours under load: no upload, no sale and no request is lost on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers import Server, Snapshot
from tests.servers.flat import CHECKOUT, RELEASES_TOML, UNITS, make_flat
from tests.servers.shop import REQUIREMENTS, Shop

from .conftest import await_page
from .load import assert_none, latencies, load, sales

pytestmark = pytest.mark.server

RATE = 20
ELSEWHERE, PARENT, IN_PLACE = "/srv/pos", "/var/www/pos", CHECKOUT
UPLOADS = """
import itertools, os, time
growing = open("media/receipts/growing.txt", "w")
for number in itertools.count():
    with open(f"media/receipts/upload-{number}.txt", "w") as file:
        file.write(f"upload {number}\\n")
    print(number, file=growing, flush=True)
    if os.path.exists("/tmp/enough"):
        break
    time.sleep(0.005)
print(number + 1)
"""


@pytest.fixture(scope="module")
def flat(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Snapshot]:
    """A server with a flat checkout that serves, and its disk at that moment."""
    server = boot("flat", requirements=REQUIREMENTS)
    shop = Shop(tmp_path_factory.mktemp("flat"), (server,))
    make_flat(server, origin)
    server.run("usermod -aG app deploy")  # who uploads stands for the old services, and then for the new ones
    return shop, server.snapshot()


def shop_of(flat: tuple[Shop, Snapshot], deploy_to: str, more: str = "") -> Shop:
    """As it was, with a releases.toml that adopts into `deploy_to`."""
    shop, snapshot = flat
    shop.server.reset(snapshot)
    configure(shop, deploy_to, more)
    await_page(shop)
    return shop


def configure(shop: Shop, deploy_to: str, more: str = "", **words: str) -> None:
    shop.configure(RELEASES_TOML.format(checkout=CHECKOUT) + more)
    path = shop.folder / "releases.toml"
    text = path.read_text().replace('"/srv/pos"', f'"{deploy_to}"')
    for old, new in words.items():
        text = text.replace(old, new)
    path.write_text(text)


def adopt(shop: Shop, check: int | None = 0) -> str:
    done = shop.fab("provision", "--adopt", "--yes", check=check, timeout=400)
    return done.stdout + done.stderr


def served(shop: Shop) -> str:
    return str(json.loads(shop.get())["release"])


def sums(server: Server, *folders: str) -> dict[str, str]:
    """Path -> checksum of every file below, links not followed. What changes by itself is left out."""
    seek = f"find {' '.join(folders)} -name __pycache__ -prune -o -type f -exec sha256sum {{}} +"
    lines = server.run(seek, timeout=120).stdout.splitlines()
    found = {line[66:]: line[:64] for line in lines}
    moving = ("celerybeat-schedule", "growing.txt", ".git/info/exclude", "/upload-")
    return {path: one for path, one in found.items() if not any(word in path for word in moving)}


@contextmanager
def uploads(shop: Shop) -> Iterator[list[int]]:
    """The old application writes a new file 200 times a second, and one that it never closes; how many, in the end."""
    run = shop.server.run
    program = f"cd {CHECKOUT}; rm -f /tmp/enough; nohup python3 /tmp/uploads.py >/tmp/uploaded 2>&1 &"
    run(f"cat > /tmp/uploads.py; {program}", user="deploy", input=UPLOADS)
    count: list[int] = []
    yield count
    run("touch /tmp/enough; for i in $(seq 100); do grep -qx '[0-9]*' /tmp/uploaded && break; sleep 0.1; done")
    count.append(int(run("cat /tmp/uploaded").stdout))  # a traceback is no number


def process_count(shop: Shop, what: str) -> int:
    return int(shop.server.run(f"pgrep -fc '[{what[0]}]{what[1:]}' || true").stdout)


@pytest.mark.parametrize("deploy_to", [pytest.param(ELSEWHERE, marks=pytest.mark.nightly), IN_PLACE])
def test_adopting_loses_a_request_a_sale_or_a_file(flat: tuple[Shop, Snapshot], deploy_to: str) -> None:
    """Under load, while files are uploaded; then deploy, back to what was adopted, and deploy again."""
    shop = shop_of(flat, deploy_to)
    server = shop.server
    before = sums(server, CHECKOUT)
    environment = server.run(f"cat {CHECKOUT}/.env.production").stdout
    with load(server.address, RATE) as users, uploads(shop) as uploaded:
        time.sleep(2)
        begun = time.monotonic()
        adopt(shop)
        took = time.monotonic() - begun
        time.sleep(2)
    print(f"{took:.0f} s, {len(users.answers)} requests, {latencies(users.answers)}, {uploaded[0]} uploads")
    assert_none(answer for answer in users.answers if not answer.ok)
    sold = [answer.uid for answer in users.answers if answer.uid]
    assert len(sold) > 20
    assert sorted(sales(server, users)) == sorted(sold)

    folders = {CHECKOUT, deploy_to}
    after = set(sums(server, *folders).values())
    assert [path for path, one in before.items() if one not in after] == []
    kept = server.run(f"cd {deploy_to}/shared/media/receipts && ls | grep -c upload-; tail -n 1 growing.txt").stdout
    assert kept.split() == [str(uploaded[0]), str(uploaded[0] - 1)]
    assert server.run(f"cat {deploy_to}/shared/.env.production").stdout == environment
    assert server.run(f"stat -c '%U:%G %a' {deploy_to}/shared/.env.production").stdout == "deploy:env-app 640\n"
    server.run(f"touch {deploy_to}/shared/media/receipts/new.txt {deploy_to}/current/media/new.txt", user="app")
    assert server.run(f"find {deploy_to}/releases -type l -lname '*{CHECKOUT}/[^rse]*'").stdout == ""

    adopted = served(shop)
    patched = server.run(f"tail -n 1 {deploy_to}/releases/{adopted}/pos/views.py").stdout
    assert patched == "# patched on the server\n"
    assert server.run(f"systemctl is-enabled {UNITS[0]} {UNITS[1]}", check=False).stdout == "disabled\ndisabled\n"
    assert process_count(shop, "celery.* beat") == 1
    assert process_count(shop, f"{CHECKOUT}/venv/bin") == 0
    assert shop.fab("provision", "--check").returncode == 0
    assert "look at" not in shop.fab("status").stdout

    shop.fab("deploy", "--ref", "additive-migration", timeout=300)
    assert served(shop) != adopted
    shop.fab("rollback", "--yes")
    assert served(shop) == adopted
    shop.fab("deploy", "--ref", "base", timeout=300)
    assert served(shop) != adopted
    again = shop.fab("provision", "--adopt", "--yes")
    assert "nothing to do" in again.stderr
    server.reboot()
    await_page(shop)
    assert served(shop) not in ("unreleased", adopted)
    assert process_count(shop, "celery.* beat") == 1


MOMENTS = (
    *("Make accounts", "Copy the code", "Share uploads with it", "Wait until they are loaded"),
    *("Make it current", "Stop the old beat", "Wait for old requests"),
)
"""Steps after which the run is killed, a random part of a second later."""


def kill_after(shop: Shop, step: str, chance: random.Random) -> None:
    run = shop.start("provision", "--adopt", "--yes")
    assert run.stdout
    told = []
    for line in run.stdout:
        told.append(line)
        if line.strip().startswith(step) and line.rstrip().endswith("s"):
            break
    else:
        raise AssertionError(f"no {step} in {''.join(told)}")
    time.sleep(chance.random())
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


@pytest.mark.nightly
def test_a_run_that_is_killed_leaves_something_that_does_not_serve(flat: tuple[Shop, Snapshot]) -> None:
    """Killed seven times on the way, each run goes on; users are served by the one or the other all the time."""
    shop = shop_of(flat, PARENT)
    before = sums(shop.server, CHECKOUT)
    chance = random.Random()
    with load(shop.server.address, RATE) as users, uploads(shop) as uploaded:
        for step in MOMENTS:
            kill_after(shop, step, chance)
            assert process_count(shop, "celery.* beat") <= 1
        adopt(shop)
    assert_none(answer for answer in users.answers if not answer.ok)
    after = set(sums(shop.server, PARENT).values())
    assert [path for path, one in before.items() if one not in after] == []
    kept = shop.server.run(f"ls {PARENT}/shared/media/receipts | grep -c upload-").stdout
    assert int(kept) == uploaded[0]
    assert served(shop) == shop.server.run(f"basename $(readlink {PARENT}/current)").stdout.strip()
    assert process_count(shop, "celery.* beat") == 1
    assert process_count(shop, f"{CHECKOUT}/venv/bin") == 0
    assert shop.fab("provision", "--check").returncode == 0
    assert "look at" not in shop.fab("status").stdout


@pytest.mark.nightly
def test_what_cannot_be_adopted_is_half_adopted(flat: tuple[Shop, Snapshot]) -> None:
    """Everything that stands in the way is said at once, and nothing is touched: no file, no unit, no folder."""
    shop = shop_of(flat, ELSEWHERE)
    state = "find /srv/pos /etc/nginx /etc/systemd/system /etc/passwd /var/www | sort | xargs -d '\\n' stat -c '%n %z'"
    moving = " | grep -v -e celerybeat-schedule -e __pycache__ -e '/backend ' -e celery.log"

    def refused(*reasons: str) -> None:
        before = set(shop.server.run(state + moving, check=False).stdout.splitlines())
        told = adopt(shop, check=4)
        assert all(reason in told for reason in ("nothing was touched", *reasons)), told
        after = set(shop.server.run(state + moving, check=False).stdout.splitlines())
        assert sorted(before ^ after) == []

    configure(shop, ELSEWHERE, **{CHECKOUT: "/var/www/html"})
    refused("/var/www/html is not a git checkout")
    configure(shop, ELSEWHERE, **{"pos-celery.service": "celeryd.service", "pos-web.service": "gunicorn.service"})
    refused("there is no unit celeryd.service", "there is no unit gunicorn.service", "pos-web.service runs from")
    configure(shop, CHECKOUT, **{'user = "deploy"': 'user = "releaser"'})
    refused("runs as deploy and could write no longer", "will belong to releaser")
    configure(shop, ELSEWHERE, **{"keep_releases = 3": 'minimum_free = "9999GB"'})
    refused("MB are free")
    configure(shop, ELSEWHERE, **{'shared_dirs = ["media"]': "shared_dirs = []"})
    shop.server.run(
        f"mkdir /etc/systemd/system/{UNITS[1]}.d && echo 'ssl_certificate /x;' >>/etc/nginx/sites-enabled/backend"
    )
    shop.server.put(
        f"/etc/systemd/system/{UNITS[1]}.d/log.conf", f"[Service]\nStandardOutput=append:{CHECKOUT}/celery.log\n"
    )
    shop.server.run(f"systemctl daemon-reload && systemctl restart {UNITS[1]}")
    refused(f"writing {CHECKOUT}/celery.log", "speaks https")
    shop.server.run(f"mount -t tmpfs tmpfs {CHECKOUT}/media")
    configure(shop, ELSEWHERE)
    refused("another file system")
    shop.server.run(f"umount {CHECKOUT}/media")
    shop.server.run("mkdir -p /srv/pos/shared/media && touch /srv/pos/shared/media/x && chown -R deploy: /srv/pos")
    refused("both hold files")
    assert served(shop) == "unreleased"
    said = shop.fab("provision", check=4)
    assert "is not adopted yet" in said.stderr
    asked = shop.fab("provision", "--adopt", check=4)
    assert "nothing was touched" in asked.stderr


@pytest.mark.nightly
def test_uploads_on_a_disk_of_their_own_keep_a_checkout_from_being_adopted(flat: tuple[Shop, Snapshot]) -> None:
    """Mounted at their new place as well, as the refusal says, they stay where they are."""
    shop = shop_of(flat, ELSEWHERE)
    run, old, new = shop.server.run, f"{CHECKOUT}/media", "/srv/pos/shared/media"
    run(f"mv {old} {old}.old && mkdir {old} && mount -t tmpfs tmpfs {old} && cp -a {old}.old/. {old}")
    run(f"touch {old}/one-more && chown --reference={old}.old {old} {old}/one-more")
    told = adopt(shop, check=4)
    assert f"mount the same folder at {new} (mount --bind, and in /etc/fstab)" in told
    before = sums(shop.server, old)
    run(f"mkdir -p {new} && mount --bind {old} {new}")
    with load(shop.server.address, RATE) as users:
        adopt(shop)
    assert_none(answer for answer in users.answers if not answer.ok)
    assert served(shop) != "unreleased"
    assert sorted(sums(shop.server, new).values()) == sorted(before.values())
    run(f"touch {new}/of-the-new && test -e {old}/of-the-new", user="app")
    assert run(f"stat -c %d {new}").stdout == run(f"stat -c %d {old}").stdout != run("stat -c %d /srv/pos").stdout
    assert shop.fab("provision", "--check").returncode == 0


@pytest.mark.nightly
def test_a_copy_that_does_not_answer_takes_the_users_with_it(flat: tuple[Shop, Snapshot]) -> None:
    """The new one is not well, first in private, then through the door: the old one serves, with its uploads."""
    shop = shop_of(flat, ELSEWHERE)
    before = sums(shop.server, CHECKOUT)
    with load(shop.server.address, RATE) as users:
        configure(shop, ELSEWHERE, **{'path = "/healthz"': 'path = "/nowhere"', '"30s"': '"5s"'})
        assert "not well on its private socket" in adopt(shop, check=1)
        configure(shop, ELSEWHERE, **{'path = "/healthz"': 'path = "/healthz"\nfront = "http://127.0.0.1:81"'})
        assert "not well through the front door" in adopt(shop, check=1)
    assert_none(answer for answer in users.answers if not answer.ok)
    assert served(shop) == "unreleased"
    assert sums(shop.server, CHECKOUT) == before
    assert shop.server.run(
        f"test -d {CHECKOUT}/media -a ! -L {CHECKOUT}/media; ls /etc/nginx/sites-enabled"
    ).stdout == ("backend\n")
    deadline = time.monotonic() + 120  # a worker is told to end, not waited for
    while process_count(shop, "/srv/pos/releases") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert process_count(shop, "/srv/pos/releases") == 0
    configure(shop, ELSEWHERE)
    adopt(shop)
    assert served(shop) != "unreleased"
