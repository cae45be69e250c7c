"""Settings on a real server: who may read them, when they take effect, and what becomes of bad ones."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers import Server
from tests.servers.shop import ENVIRONMENT, Shop

from .load import assert_none, load

pytestmark = pytest.mark.server

FILE = "/srv/pos/shared/.env.production"
VERSIONS = "/srv/pos/shared/.env.versions"
SECRET = "canary-5Tn9 $x 'quoted'"
WATCH = """
import glob, os
word, seen = "can" + "ary-", set()
while not os.path.exists("/tmp/enough"):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            text = open(path, "rb").read()
        except OSError:
            continue
        if any(one in text for one in (word.encode(), b"Y2FuYXJ5", b"NhbmFye", b"jYW5hcn")):  # base64 as well
            seen.add(text)
print(len(seen))
"""


def fab(shop: Shop, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shop.command(*words), cwd=shop.folder, env=shop.environment(), input=said, capture_output=True, text=True
    )


@contextmanager
def watched(server: Server) -> Iterator[list[str]]:
    """How many command lines on the server showed the value meanwhile."""
    told: list[str] = []
    server.run("rm -f /tmp/enough")
    thread = threading.Thread(target=lambda: told.append(server.run("python3 -", input=WATCH).stdout.strip()))
    thread.start()
    try:
        yield told
    finally:
        server.run("touch /tmp/enough")
        thread.join()


def live_values(shop: Shop, name: str) -> set[str]:
    """What the live release's processes were started with."""
    found = shop.server.run(
        f"for path in /proc/[0-9]*/environ; do tr '\\0' '\\n' <$path 2>/dev/null | "
        f"grep -a -e '^{name}=' -e '^RELEASE_ID=' | paste -sd '|'; done; true"
    ).stdout
    mine = [line for line in found.splitlines() if f"RELEASE_ID={shop.current()}" in line]
    assert mine
    return {part.partition("=")[2] for line in mine for part in line.split("|") if part.startswith(f"{name}=")}


def test_only_the_two_accounts_may_read_it_and_nobody_sees_it_pass(shop: Shop) -> None:
    before = shop.server.run(f"cat {FILE}").stdout
    with watched(shop.server) as told:
        done = fab(shop, "env.set", "POS_NOTE", "--json", said=SECRET)
    assert done.returncode == 0, done.stderr
    assert told == ["0"]
    assert "canary" not in done.stdout + done.stderr
    assert shop.server.run(f"stat -c '%a %U:%G' {FILE}").stdout == "640 deploy:env-app\n"
    assert shop.server.run(f"cat {FILE}", user="app").stdout == f"{before}POS_NOTE='{SECRET}'\n".replace(
        "'quoted'", "\\'quoted\\'"
    )
    for user, path in (("www-data", FILE), ("www-data", VERSIONS), ("app", VERSIONS)):
        assert "Permission denied" in shop.server.run(f"grep -r . {path}", user=user, check=False).stderr
    assert shop.server.run(f"stat -c %a {VERSIONS}/*").stdout == "600\n"
    assert shop.server.run("grep -c canary /srv/pos/.releases/lock; true").stdout == "0\n"
    assert shop.server.run("journalctl --no-pager | grep -c canary-5; true").stdout == "0\n"


def test_with_a_restart_every_process_has_it_and_nobody_loses_a_request(shop: Shop) -> None:
    assert live_values(shop, "POS_NOTE") == set()
    was = shop.current()
    with load(shop.server.address, rate=50) as users:
        users.await_calm()
        done = fab(shop, "env.set", "POS_NOTE", "--restart", said=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shop.current() != was
    assert live_values(shop, "POS_NOTE") == {SECRET}
    assert_none([answer for answer in users.answers if not answer.ok])
    assert len(users.answers) > 50


def test_settings_it_cannot_live_with_go_back_with_the_release(shop: Shop) -> None:
    before, was = shop.server.run(f"cat {FILE}").stdout, shop.current()
    text = ENVIRONMENT.format(secret="canary", database=shop.server.address)
    (shop.folder / "bad.env").write_text(text.replace("pos:pos@", "pos:canary@"))
    done = fab(shop, "env.push", "bad.env", "--restart", "--yes")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert shop.server.run(f"cat {FILE}").stdout == before
    assert shop.server.run(f"stat -c '%a %U:%G' {FILE}").stdout == "640 deploy:env-app\n"
    assert shop.current() == was
    assert json.loads(shop.get())


def test_the_file_is_the_same_after_a_round_trip(shop: Shop) -> None:
    before = shop.server.run(f"cat {FILE}").stdout
    assert fab(shop, "env.pull").stdout == before
    assert shop.fab("env.edit", environment={"VISUAL": "sed -i s/POS_SLOW=1/POS_SLOW=2/"}).returncode == 0
    assert shop.server.run(f"cat {FILE}").stdout == before.replace("POS_SLOW=1", "POS_SLOW=2")
    version = fab(shop, "env.versions").stdout.split()[1]
    assert fab(shop, "env.restore", version).returncode == 0
    assert shop.server.run(f"cat {FILE}").stdout == before


def test_who_may_not_share_it_with_the_services_is_told(shop: Shop) -> None:
    """A file that they cannot read would stop the next release, and the next boot."""
    shop.server.run("gpasswd -d deploy env-app")
    before = shop.server.run(f"cat {FILE}").stdout
    done = fab(shop, "env.set", "POS_NOTE", said="another")
    assert (done.returncode, "deploy is not in the group env-app" in done.stdout + done.stderr) == (1, True), (
        done.stderr
    )
    assert shop.server.run(f"cat {FILE}").stdout == before
    shop.server.run("usermod -aG env-app deploy")
