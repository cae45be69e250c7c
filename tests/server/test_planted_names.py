"""What deploy or the application plants in its folders never leads root anywhere: every path root touches, every kind.

Which paths those are is found by watching `fab provision` while it mends, never from a list.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks._scene import Scene, open_host
from tasks.config.load import load, stage
from tasks.engine.session import Session
from tests.conftest import Boot
from tests.servers.shop import Shop

from .planting import PLANTS, VICTIM, VICTIMS, attacked, kinds_for, outside, watched, within_reach

pytestmark = pytest.mark.server

PORT = 7823
SPOILED = """
cd /srv/pos
rm -rf .releases/lock backups ~deploy/.ssh/known_hosts
chmod 666 shared/.env.production
chmod 700 shared .releases
chown root: shared/media
mv ~deploy/.ssh/authorized_keys /root/theirs
"""
"""Everything of an account's own that provisioning makes is to be made again."""
LASTS = 60
"""Seconds; a run that mends takes five."""


@pytest.fixture(scope="module")
def shop(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A server that was provisioned, and no release on it."""
    server = boot("planted", ssh_port=PORT)
    server.reset(server.pristine)
    shop = Shop(tmp_path_factory.mktemp("planted"), (server,))
    server.settle()
    shop.configure(
        "[provision]\nfail2ban = false\nupgrades = false\nssh = false\nfirewall = false\n"
        f'known_hosts = ["git.test {server.known_hosts.split(" ", 1)[1].strip()}"]\n'
    )
    path = shop.folder / "releases.toml"
    path.write_text(path.read_text().replace('"/srv/git/pos.git"', '"git@git.test:pos.git"'))
    shop.fab("provision", "--yes", timeout=600)
    server.run(f"echo root >{VICTIM}; chmod 600 {VICTIM}; mkdir -m 700 {VICTIMS}")
    assert shop.fab("provision", "--check").returncode == 0
    return shop


@pytest.fixture(scope="module")
def touched(shop: Shop) -> list[tuple[str, str]]:
    """(path, account that may plant something there); names that are new in every run cannot be met."""
    seen: list[set[str]] = []
    for _ in range(2):
        shop.server.run(SPOILED)
        with watched(shop.server) as one:
            shop.fab("provision", "--yes", timeout=300)
        seen.append(one.paths)
    assert shop.fab("provision", "--check").returncode == 0
    return within_reach(shop.server, seen[0] & seen[1])


def provision(shop: Shop) -> tuple[int, str]:
    done = shop.fab("provision", "--yes", check=None, timeout=LASTS)
    return done.returncode, done.stdout + done.stderr


def test_the_watch_sees_what_provisioning_touches(touched: list[tuple[str, str]]) -> None:
    paths = {path for path, _ in touched}
    print("\n".join(sorted(f"{account} {path}" for path, account in touched)))
    assert {"/srv/pos/.releases/lock", "/srv/pos/shared/.env.production", "/srv/pos/shared/media"} <= paths
    assert {"/home/deploy/.ssh/authorized_keys", "/home/deploy/.ssh/known_hosts", "/home/deploy/.ssh"} <= paths


@pytest.mark.nightly
def test_nothing_planted_anywhere_leads_root_away(shop: Shop, touched: list[tuple[str, str]]) -> None:
    cases = [(*one, kind) for one in touched for kind in kinds_for(shop.server, *one)]
    wrong = [attacked(shop.server, *case, lambda: provision(shop)) for case in cases]
    print(f"{len(cases)} cases")
    assert [one for one in wrong if one] == []


def test_what_is_planted_at_the_files_of_an_account_leads_root_nowhere(
    shop: Shop, touched: list[tuple[str, str]]
) -> None:
    """One kind at each path, another one at the next: all of both every time; every pair of them at night."""
    kinds = list(PLANTS)
    wrong = []
    for place, (path, account) in enumerate(sorted(touched)):
        possible = kinds_for(shop.server, path, account)
        kind = next(one for one in (*kinds[place % len(kinds) :], *kinds) if one in possible)
        wrong.append(attacked(shop.server, path, account, kind, lambda: provision(shop)))
    assert [one for one in wrong if one] == []


# ---- the lock, which root takes in a folder of deploy's


SUDOERS = "/etc/sudoers.d/planted"
EVERYWHERE = """python3 -c 'import os
for name in (f"lock.{{number}}" for number in range(1, 9999)): {}'"""
"""Of any process there may be."""
LOCKS = {
    "a link to a sudoers file": f"ln -sf {SUDOERS} lock",
    "a FIFO": "rm -f lock; mkfifo lock",
    "a folder": "rm -f lock; mkdir lock",
    "FIFOs where its holder was written": EVERYWHERE.format("os.mkfifo(name, 0o666)"),
    "links where its holder was written": EVERYWHERE.format(f'os.symlink("{SUDOERS}", name)'),
}


@pytest.mark.parametrize("how", LOCKS)
def test_a_planted_lock_gives_deploy_no_rule_of_its_own(shop: Shop, how: str) -> None:
    """Root wrote who holds it through a link, and deploy's answer to a FIFO: a line of a sudoers file."""
    run = shop.server.run
    before = outside(shop.server)
    run(f"cd /srv/pos/.releases && {LOCKS[how]}", user="deploy")
    try:
        status, said = provision(shop)
        assert outside(shop.server) == before
        assert run(f"test -e {SUDOERS}", check=False).returncode == 1
        assert run("sudo -n id", user="deploy", check=False).returncode != 0
        if "holder" not in how:
            assert (status, "/srv/pos/.releases/lock" in said) == (1, True), said
    finally:
        run("rm -rf /srv/pos/.releases/lock*")
    assert provision(shop)[0] == 0


@pytest.fixture
def sessions(shop: Shop) -> Iterator[tuple[Session, Session]]:
    """One of root's and one of deploy's."""
    here = stage(load(shop.folder / "releases.toml"))
    root = open_host(here, here.hosts[0], as_admin=True, more="provision")
    deploy = open_host(here, here.hosts[0])
    yield root, deploy
    root.close()
    deploy.close()


@pytest.mark.parametrize("first", [0, 1], ids=["root first", "deploy first"])
def test_root_and_deploy_keep_each_other_out(sessions: tuple[Session, Session], first: int) -> None:
    holder, other = sessions[first], sessions[1 - first]
    assert holder.lock("ada: provision") == ""
    assert other.lock("bob: deploy") == "ada: provision "
    holder.unlock()
    assert other.lock("bob: deploy") == ""
    assert holder.lock("ada: provision") == "bob: deploy "
    other.unlock()
    assert holder.lock("ada: provision") == ""


@pytest.mark.parametrize("how", ["rm lock; touch lock", "rm lock; ln -s /root/victim lock", "rm lock; mkfifo lock"])
def test_another_lock_that_is_put_there_lets_deploy_in_no_sooner(
    shop: Shop, sessions: tuple[Session, Session], how: str
) -> None:
    root, deploy = sessions
    assert root.lock("ada: provision") == ""
    shop.server.run(f"cd /srv/pos/.releases; {how}", user="deploy")
    try:
        assert deploy.lock("bob: deploy") == "ada: provision "
        assert "locked: ada: provision" in shop.fab("status").stdout
        refused = shop.fab("repair", check=3)
        assert "locked by ada: provision" in refused.stderr
    finally:
        shop.server.run("rm -f /srv/pos/.releases/lock")


def test_root_tells_nobody_what_a_planted_link_leads_to(shop: Shop, sessions: tuple[Session, Session]) -> None:
    """A restore looks at a host as root: what its account's files say is read by that account."""
    here = stage(load(shop.folder / "releases.toml"))
    looking = Scene(here, lambda _: None, {"app1": sessions[0]}, 0, as_admin=True)
    run = shop.server.run
    run(f"echo frozen >{VICTIM}; ln -s {VICTIM} /srv/pos/.releases/freeze")
    try:
        looking.survey()
        assert looking.facts["app1"].freeze == ""
        run("rm /srv/pos/.releases/freeze; echo frozen >/srv/pos/.releases/freeze")
        looking.survey()
        assert looking.facts["app1"].freeze.strip() == "frozen"
    finally:
        run("rm -f /srv/pos/.releases/freeze")
