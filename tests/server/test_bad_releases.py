"""Whatever is bad, the release or the world: users see no change, the message says what to do, nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server.conftest import await_page, nightly
from tests.server.looking import (
    ask,
    await_that,
    deploy_another,
    edit,
    nothing_left,
    releases,
    said,
    sell,
    sql,
    unseen,
    watched,
)
from tests.servers.faults import frozen, full_disk, stopped
from tests.servers.shop import Shop

pytestmark = pytest.mark.server

IMPATIENT = ('deadline = "30s"', 'deadline = "12s"')
COLUMNS = "select column_name from information_schema.columns where table_name = 'sales_sale' and column_name = 'till'"


# -- the release


@pytest.mark.parametrize(
    ("tag", "cause", "next_step"),
    [
        ("broken-import", "No module named 'sales.receipts' (pos/urls.py:12)", "was its file committed?"),
        ("broken-wsgi", "No module named 'pos.monitoring' (pos/wsgi.py:5)", "was its file committed?"),
        ("broken-settings", "KeyError: 'PAYMENT_KEY'", "missing from the environment file"),
        ("unhealthy", '"printer": "ConnectionRefusedError"', "users never saw it"),
        ("failing-atomic-migration", "Migration sales.0002_sale_till failed", "rolled back as a whole"),
        ("superuser-migration", "creates the extension bloom", 'CREATE EXTENSION "bloom";'),
        ("lfs", "git-lfs is not installed", "apt-get install git-lfs"),
    ],
)
def test_users_never_see_a_bad_release(shop: Shop, tag: str, cause: str, next_step: str) -> None:
    shop.configure()
    edit(shop, IMPATIENT)
    with unseen(shop):
        done = shop.fab("deploy", "--ref", tag, check=1)
        assert cause in done.stderr
        assert next_step in said(done).replace("Was", "was")
        assert "users saw no change" in done.stderr
        assert sell(shop, tag) == 201
    shop.configure()
    deploy_another(shop)


def test_a_release_that_boots_slowly_is_waited_for(shop: Shop) -> None:
    shop.configure()
    before = shop.current()
    with watched(shop.server) as seen:
        shop.fab("deploy", "--ref", "slow-boot")
    after = shop.current()
    assert after != before
    assert set(seen.answers) == {(200, before), (200, after)}


def test_a_hook_that_installs_something_fails_and_does_not_change_what_is_live(shop: Shop) -> None:
    """Releases with the same requirements share their environment."""
    shop.configure("""[hooks]\nbefore_switch = ['cp /etc/hostname "$VIRTUAL_ENV"/lib/python3*/site-packages/']\n""")
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "base", "--force", check=1)
    assert "the hook before_switch failed" in said(done)
    assert "Permission denied" in said(done)
    assert shop.server.run("find /srv/pos/environments/ -name hostname").stdout == ""
    shop.configure()


def test_a_migration_that_is_committed_half_way_says_what_it_broke(shop: Shop) -> None:
    """The schema stays changed under the old release and nobody can take it back unseen: a person must look (6)."""
    shop.configure()
    assert sell(shop, "before") == 201
    before, kept = shop.current(), releases(shop)
    with watched(shop.server) as seen:
        done = shop.fab("deploy", "--ref", "failing-migration", check=6)
    assert set(seen.answers) == {(200, before)}
    nothing_left(shop, before, kept)
    assert sql(shop, COLUMNS).strip() == "till"
    assert sell(shop, "after") == 500
    text = said(done)
    assert "sales.0002_sale_till" in text
    assert "sales_sale.till" in text  # exactly what is there now and breaks writing
    assert "not atomic" in text
    assert "users saw no change" not in text
    sql(shop, "alter table sales_sale drop column till")  # what the message leads to
    assert sell(shop, "after") == 201
    deploy_another(shop)


# -- the server


def test_a_missing_shared_file_is_named_before_anything_is_built(shop: Shop) -> None:
    shop.configure()
    edit(shop, ('shared_dirs = ["media"]', 'shared_dirs = ["media"]\nshared_files = ["licence.pem", "pos/local.py"]'))
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "code-only", check=4)
    for path in ("licence.pem", "pos/local.py"):
        assert f"/srv/pos/shared/{path} does not exist" in said(done)
    assert "Build" not in done.stderr
    shop.server.run("cd /srv/pos/shared && mkdir -p pos && echo secret > licence.pem && echo > pos/local.py")
    linked = deploy_another(shop)
    assert shop.server.run(f"cat /srv/pos/releases/{linked}/licence.pem").stdout == "secret\n"


def test_a_missing_environment_file_is_named_before_anything_is_built(shop: Shop) -> None:
    shop.configure()
    shop.server.run("mv /srv/pos/shared/.env.production /root/")
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "slow-first-request", check=4)
    assert "/srv/pos/shared/.env.production does not exist" in said(done)
    shop.server.run("mv /root/.env.production /srv/pos/shared/")
    deploy_another(shop)


def test_a_disk_that_is_nearly_full_is_refused(shop: Shop) -> None:
    with full_disk(shop.server, "/srv/pos", free_kib=40_000), unseen(shop):
        done = shop.fab("deploy", "--ref", "slow-first-request", check=4)
    assert "MB are free under /srv/pos, less than 500 MB" in said(done)
    assert "fab cleanup" in said(done)
    deploy_another(shop)


def test_a_disk_that_fills_up_while_building_changes_nothing(fresh: Shop) -> None:
    edit(fresh, ("keep_releases = 3", 'keep_releases = 3\nminimum_free = "0MB"'))
    with full_disk(fresh.server, "/srv/pos", free_kib=200), unseen(fresh):
        done = fresh.fab("deploy", "--ref", "code-only", check=1)
        assert "no room is left on the disk of /srv/pos" in done.stderr
        assert "fab cleanup" in done.stderr
    deploy_another(fresh)


# -- where the code comes from


@contextmanager
def deaf(shop: Shop) -> Iterator[str]:
    """A port that takes connections and never says a word."""
    program = "import socket,time; s=socket.create_server(('127.0.0.1', 9418)); time.sleep(600)"
    shop.server.run(f'systemd-run --quiet --unit=deaf --collect /usr/bin/python3 -c "{program}"')
    try:
        yield "git://127.0.0.1/pos.git"
    finally:
        shop.server.run("systemctl stop deaf")


@contextmanager
def refusing(_: Shop) -> Iterator[str]:
    yield "git://127.0.0.1:9/pos.git"


@contextmanager
def private(_: Shop) -> Iterator[str]:
    yield "ssh://nobody@127.0.0.1/srv/git/pos.git"


@pytest.mark.parametrize("remote", [refusing, *nightly(deaf), private])
def test_a_git_remote_that_cannot_be_read_is_refused(shop: Shop, remote: Callable) -> None:  # type: ignore[type-arg]
    shop.configure()
    with remote(shop) as url, unseen(shop):
        edit(shop, ("/srv/git/pos.git", url))
        done = shop.fab("deploy", "--ref", "code-only", check=4, timeout=90)
        assert f"cannot read {url}" in said(done)
        assert f"git ls-remote {url}" in said(done)
    shop.configure()
    deploy_another(shop)


def test_a_branch_that_is_not_there_is_refused(shop: Shop) -> None:
    shop.configure()
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "releese", check=4)
    assert "there is no branch or tag releese in /srv/git/pos.git" in said(done)


# -- who the server is


def test_a_server_with_another_host_key_is_not_talked_to(shop: Shop) -> None:
    shop.configure()
    shop.server.new_host_key()
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "code-only", check=1)
    assert "the host key of" in said(done)
    assert "is not the one known" in said(done)
    assert "if the server was rebuilt" in said(done)
    shop.configure()  # somebody compared it, and pinned the new one
    deploy_another(shop)


def test_a_server_nobody_knows_is_not_talked_to(shop: Shop, tmp_path: Path) -> None:
    shop.configure()
    key = " ".join(shop.server.known_hosts.split()[1:3])
    edit(shop, (f', host_key = "{key}"', ""))
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "code-only", check=1, environment={"HOME": str(tmp_path)})
    assert "is not known (SHA256:" in said(done)
    assert "ssh-keygen -lf" in said(done)
    assert not (tmp_path / ".ssh").exists()


# -- what it needs to run


@pytest.mark.parametrize("fault", [stopped, *nightly(frozen)])
def test_a_database_that_does_not_answer_is_named(shop: Shop, fault: Callable) -> None:  # type: ignore[type-arg]
    """Users have a problem already; the deploy neither adds to it nor waits for ever."""
    shop.configure()
    before, kept = shop.current(), releases(shop)
    with fault(shop.server, "postgresql@15-main"), watched(shop.server) as seen:
        done = shop.fab("deploy", "--ref", "code-only", "--force", check=1, timeout=150)
    assert seen.releases <= {before}
    assert "The database does not let us in" in said(done)
    assert "in the environment file right?" in said(done)
    await_page(shop)
    nothing_left(shop, before, kept)
    deploy_another(shop)


def test_a_redis_that_is_down_is_named(shop: Shop) -> None:
    shop.configure()
    edit(shop, IMPATIENT)
    before, kept = shop.current(), releases(shop)
    with stopped(shop.server, "redis-server"), watched(shop.server) as seen:
        done = shop.fab("deploy", "--ref", "code-only", "--force", check=1)
    assert seen.releases == {before}
    assert '"cache": "ConnectionError"' in done.stderr
    await_page(shop)
    nothing_left(shop, before, kept)
    await_that(lambda: ask(shop.server) == (200, before), lambda: "the old release never came back")
    shop.configure()
    deploy_another(shop)
