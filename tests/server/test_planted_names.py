"""What deploy or the application plants in its folders never leads root anywhere: every path root touches, every kind.

Which paths those are is found by watching `fab provision` while it mends, never from a list.
"""

from __future__ import annotations

import pytest

from tests.conftest import Boot
from tests.servers.shop import Shop

from .planting import PLANTS, VICTIM, VICTIMS, attacked, kinds_for, watched, within_reach

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
