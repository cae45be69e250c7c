"""What real Django projects bring along: each either works, or is named before users notice."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.server.conftest import await_page, put_back
from tests.server.looking import (
    ask,
    await_that,
    deploy_another,
    edit,
    generations,
    said,
    sell,
    sql,
    unseen,
    watched,
)
from tests.servers.shop import Shop

pytestmark = pytest.mark.server

PRICES = "select sku, price from inventory_product order by sku"


def variables(shop: Shop, unit: str) -> dict[str, str]:
    """The environment of a service's main process, as the kernel shows it."""
    text = shop.server.run(f"cat /proc/$(systemctl show -P MainPID {unit})/environ").stdout
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def commit(shop: Shop, tag: str, **files: str) -> None:
    """A revision on top of `base`: file names have __ for a dot."""
    folder = f"/tmp/{tag}"
    shop.server.run(
        f"git clone --quiet /srv/git/pos.git {folder} && git -C {folder} checkout --quiet base", user="deploy"
    )
    for name, text in files.items():
        shop.server.put(f"{folder}/{name.replace('__', '.')}", text, owner="deploy")
    shop.server.run(
        f"cd {folder} && git add -A && git -c user.name=x -c user.email=x@y commit -qm {tag} && "
        f"git push -q origin HEAD:refs/tags/{tag}",
        user="deploy",
    )


# -- workers


def test_a_release_whose_worker_is_dead_is_refused_though_the_page_is_well(shop: Shop) -> None:
    shop.configure()
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "worker-dead", check=1)
    assert "does not start: ModuleNotFoundError: No module named 'openpyxl'" in said(done)
    assert "nothing was switched" in said(done)


def test_a_queue_that_nobody_consumes_is_named(shop: Shop) -> None:
    shop.configure()
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "unconsumed-queue", check=1)
    assert "a queue that no worker consumes: exports" in said(done)
    assert "add it to queues of a worker" in said(done)


# -- the database


def test_rollback_takes_back_a_column_the_older_code_cannot_fill(shop: Shop) -> None:
    shop.configure()
    before = shop.current()
    warned = shop.fab("deploy", "--ref", "additive-not-null")
    assert "sales.0002_sale_till adds a column that the live release does not fill" in said(warned)
    newer = shop.current()
    sold = int(sql(shop, "select count(*) from sales_sale"))
    assert sell(shop, "newer") == 201

    asked = shop.fab("rollback", check=2)  # nobody is there to answer
    assert "Reverse 1 migration(s) first: sales.0002_sale_till" in said(asked)
    assert "--yes" in said(asked)
    assert ask(shop.server) == (200, newer)

    shop.fab("rollback", "--yes")
    assert ask(shop.server) == (200, before)
    assert sell(shop, "older") == 201
    assert int(sql(shop, "select count(*) from sales_sale")) == sold + 2


def test_a_rollback_of_the_code_alone_warns_that_the_database_is_ahead(shop: Shop) -> None:
    shop.configure()
    before = shop.current()
    shop.fab("deploy", "--ref", "additive-not-null")
    done = shop.fab("rollback", "--code-only")
    assert "sales.0002_sale_till" in said(done)
    assert f"stays ahead of {before}" in said(done)
    assert ask(shop.server) == (200, before)
    assert sell(shop, "unsold") == 500  # that is what it warned of


def test_a_migration_that_cannot_be_reversed_makes_rollback_ask_which_way(fresh: Shop) -> None:
    before, prices = fresh.current(), sql(fresh, PRICES)
    assert sell(fresh, "kept") == 201
    fresh.fab("deploy", "--ref", "irreversible-migration")
    newer = fresh.current()
    assert sql(fresh, PRICES) != prices

    refused = fresh.fab("rollback", "--yes", check=4)
    assert "inventory.0003_round_prices" in said(refused)
    assert "cannot be reversed" in said(refused)
    assert "--with-db" in said(refused)
    assert "--code-only" in said(refused)
    assert ask(fresh.server) == (200, newer)

    asked = fresh.fab("rollback", "--with-db", check=2)
    assert "everything written since is lost" in said(asked)

    fresh.fab("rollback", "--with-db", "--yes")
    assert ask(fresh.server) == (200, before)
    assert sql(fresh, PRICES) == prices
    assert sql(fresh, "select uid from sales_sale").split() == ["kept"]
    assert sell(fresh, "afterwards") == 201
    deploy_another(fresh)


# -- the environment

AWKWARD = {"WORDS": "two words", "DOLLAR": "p@$HOME", "BACK": r"a\b", "HASH": "x #y", "QUOTE": "it's", "EMPTY": ""}
WRITTEN = {
    "dotenv": r"""
        WORDS=two words
        DOLLAR='p@$HOME'
        BACK='a\\b'
        HASH='x #y'
        QUOTE="it's"
        EMPTY=
        """,
    "decouple": r"""
        WORDS=two words
        DOLLAR=p@$HOME
        BACK=a\b
        HASH=x #y
        QUOTE=it's
        EMPTY=
        """,
    "systemd": r"""
        WORDS=two words
        DOLLAR=p@$HOME
        BACK='a\b'
        HASH=x #y
        QUOTE=it's
        EMPTY=
        """,
    "shell": r"""
        WORDS='two words'
        DOLLAR='p@$HOME'
        BACK='a\b'
        HASH='x #y'
        QUOTE=it\'s
        EMPTY=
        """,
}


@pytest.mark.parametrize("dialect", WRITTEN)
def test_everything_of_a_release_reads_the_environment_file_alike(shop: Shop, dialect: str) -> None:
    names = " ".join(AWKWARD)
    shop.put_environment("".join(line.strip() + "\n" for line in WRITTEN[dialect].strip().splitlines()))
    hook = f"for name in {names}; do printf '%s=%s;' $name \\\"${{!name}}\\\"; done > $RELEASE_ROOT/../../shared/seen"
    shop.configure(f'[environment]\nformat = "{dialect}"\n\n[hooks]\nbefore_switch = ["{hook}"]\n')
    shop.fab("deploy", "--ref", "base")
    shown = "".join(f"{name}={value};" for name, value in AWKWARD.items())
    assert shop.server.run("cat /srv/pos/shared/seen").stdout == shown
    program = f"import os; print(''.join(n + '=' + os.environ[n] + ';' for n in '{names}'.split()))"
    assert shop.fab("manage", f"shell -v 0 -c {shlex.quote(program)}").stdout.strip() == shown
    for unit in (f"pos-web@{shop.current()}", f"pos-worker@{shop.current()}", "pos-beat"):
        seen = variables(shop, unit)
        assert {name: seen.get(name) for name in AWKWARD} == AWKWARD, unit


def test_settings_that_fall_back_silently_are_refused(shop: Shop) -> None:
    shop.configure()
    shop.put_environment()
    for tag, cause, next_step in (
        ("debug-on", "DEBUG is on", "Set DEBUG off"),
        ("sqlite-fallback", "default database is sqlite, not postgresql", "look at the database variables"),
    ):
        with unseen(shop):
            done = shop.fab("deploy", "--ref", tag, check=1)
        assert cause in said(done)
        assert next_step in said(done)


# -- files


def test_a_release_that_writes_into_its_checkout_is_told_where_to(shop: Shop) -> None:
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "import-writes", check=1)
    assert "logs/app.log" in said(done)
    assert "name that folder in shared_dirs" in said(done)

    edit(shop, ('shared_dirs = ["media"]', 'shared_dirs = ["media", "logs"]'))
    shop.fab("deploy", "--ref", "import-writes")
    assert ask(shop.server) == (200, shop.current())
    shop.fab("deploy", "--ref", "import-writes", "--force")  # the log is the services' by now
    assert ask(shop.server) == (200, shop.current())
    assert shop.server.run("stat -c %F /srv/pos/shared/logs/app.log").stdout.startswith("regular")


def test_files_in_git_seed_a_shared_folder_and_never_overwrite_it(shop: Shop) -> None:
    shop.configure()
    server, shared = shop.server, "/srv/pos/shared/media/products/price-list.txt"
    shop.fab("deploy", "--ref", "media-in-git")
    assert server.run(f"cat {shared}").stdout == "Coffee 2.80\nTea 2.20\n"
    server.run("echo photo > /srv/pos/shared/media/products/photo.jpg", user="app")  # people upload beside it
    server.run(f"echo 'Coffee 3.10' > {shared}", user="app")
    shop.fab("deploy", "--ref", "media-in-git", "--force")
    assert server.run(f"cat {shared} /srv/pos/current/media/products/photo.jpg").stdout == "Coffee 3.10\nphoto\n"


def test_an_application_in_a_sub_directory(fresh: Shop) -> None:
    edit(
        fresh,
        ('shared_dirs = ["media"]', 'shared_dirs = ["backend/media"]'),
        ("[django]\n", '[django]\nmanage = "backend/manage.py"\n'),
    )
    fresh.install()
    before = fresh.current()
    with watched(fresh.server) as seen:
        fresh.fab("deploy", "--ref", "sub-directory")
    after = fresh.current()
    assert set(seen.answers) == {(200, before), (200, after)}
    style = re.search(r"/static/pos/site\.[0-9a-f]+\.css", fresh.get("/"))
    assert style
    assert ask(fresh.server, style[0])[0] == 200
    fresh.fab("manage", "check")


# -- building


def test_hooks_run_in_order_with_the_environment(fresh: Shop) -> None:
    names = ("after_checkout", "before_static", "after_static", "before_switch", "after_switch")
    log = "/srv/pos/shared/hooks"

    def say(name: str) -> str:
        return f"echo {name} $(basename $PWD) $DATABASE_URL $(readlink /srv/pos/current | cut -d / -f 2) >> {log}"

    lines = "".join(f'{name} = ["{say(name)}", "{say(name + "-2")}"]\n' for name in names)
    fresh.configure(f"[hooks]\n{lines}")
    before = fresh.current()
    fresh.fab("deploy", "--ref", "code-only")
    after = fresh.current()
    url = f"postgres://pos:pos@{fresh.server.address}:5432/pos"
    assert fresh.server.run(f"cat {log}").stdout.splitlines() == [
        f"{name}{number} {after} {url} {after if name == 'after_switch' else before}"
        for name in names
        for number in ("", "-2")
    ]


def test_hooks_that_may_fail_and_hooks_for_the_first_time(shop: Shop) -> None:
    log = "/srv/pos/shared/first"
    shop.configure(f'[hooks]\nbefore_static = ["first:echo $RELEASE_ID >> {log}", "-echo docs; false"]\n')
    done = shop.fab("deploy", "--ref", "code-only", "--force")
    assert "the hook before_static failed and may: echo docs; false" in said(done)
    assert shop.server.run(f"cat {log}", check=False).stdout == ""

    shop.configure('[hooks]\nbefore_static = ["echo theme; exit 3"]\n')
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "base", "--force", check=1)
    assert "the hook before_static failed: echo theme; exit 3" in said(done)
    assert "put a - before it" in said(done)

    units = "systemctl stop 'pos-*@*.service' 'pos-*@*.socket'"
    shop.server.run(
        f"{units}; cd /srv/pos && rm -r current releases/* .releases/journal.jsonl"
    )  # nothing was ever live
    shop.configure(f'[hooks]\nbefore_static = ["first:echo $RELEASE_ID >> {log}"]\n')
    shop.fab("deploy", "--ref", "base")
    assert shop.server.run(f"cat {log}").stdout.split() == [shop.current()]


def test_a_python_that_is_not_there_is_said_cleanly(shop: Shop) -> None:
    put_back(shop)
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "newer-python", check=1)
    assert "no Python" in said(done)
    assert ">=3.99" in said(done)
    assert "apt-get install python3" in said(done)
    assert "Traceback" not in said(done)


def test_a_changed_lock_gets_its_own_environment_and_rollback_builds_nothing(shop: Shop) -> None:
    """Not the index, nor the repository, nor uv: what was live is all there."""
    shop.configure()
    before = shop.current()
    shop.fab("deploy", "--ref", "new-requirement")
    after = shop.current()
    found = shop.server.run("ls -d /srv/pos/releases/*/.venv/lib/python3*/site-packages/humanize").stdout
    assert found.count("\n") == 1
    assert after in found
    shop.server.run(
        "mv /srv/git /srv/away && rm -rf /home/*/.cache/uv && for one in uv pip git; do "
        "for path in $(type -ap $one); do chmod 000 $path; done; done; "
        "iptables -A OUTPUT -p tcp --dport 443 -j REJECT 2>/dev/null || true"
    )
    shop.fab("rollback")
    assert ask(shop.server) == (200, before)
    shop.fab("rollback", "--to", after)
    assert ask(shop.server) == (200, after)


@pytest.mark.nightly
def test_extra_packages_and_a_constraints_file(fresh: Shop) -> None:
    commit(fresh, "constrained", constraints__txt="humanize==4.15.0\n")
    fresh.configure('[python]\nextra = ["humanize"]\nconstraints = "constraints.txt"\n')
    fresh.fab("deploy", "--ref", "constrained", timeout=300)
    frozen = fresh.server.run("cat /srv/pos/current/.release/freeze.txt").stdout
    assert "humanize==4.15.0" in frozen
    assert "django==" in frozen.lower()


# -- serving


def test_a_slow_first_request_is_the_probe_s_and_not_a_user_s(shop: Shop) -> None:
    put_back(shop)
    before = shop.current()
    with watched(shop.server) as seen:
        shop.fab("deploy", "--ref", "slow-first-request")
    assert set(seen.answers) == {(200, before), (200, shop.current())}


def test_a_gunicorn_configuration_of_its_own_does_not_take_the_socket_away(shop: Shop) -> None:
    shop.configure()
    edit(shop, ('"web"\nworkers = 1', '"web"\nworkers = 2'))
    shop.fab("deploy", "--ref", "own-gunicorn-config")
    assert ask(shop.server) == (200, shop.current())
    assert ":8999" not in shop.server.run("ss -ltnH").stdout
    main = shop.server.run(f"systemctl show -P MainPID pos-web@{shop.current()}").stdout.strip()
    assert len(shop.server.run(f"pgrep -P {main}").stdout.split()) == 2  # as releases.toml says, not 7


def test_the_previous_release_is_kept_warm_until_the_next(shop: Shop) -> None:
    shop.configure()
    edit(shop, ("keep_releases = 3", "keep_releases = 3\nkeep_warm = true"))
    first = shop.current()
    deploy_another(shop)
    web = shop.server.run(f"systemctl show -P MainPID pos-web@{first}").stdout
    assert shop.server.run(f"systemctl is-active pos-web@{first}").stdout.strip() == "active"
    shop.fab("rollback")
    assert ask(shop.server) == (200, first)
    assert shop.server.run(f"systemctl show -P MainPID pos-web@{first}").stdout == web  # the very same processes
    third = deploy_another(shop)
    await_that(lambda: generations(shop) == {first, third}, lambda: f"{generations(shop)} run, not {first} and {third}")


# -- the server


def test_a_server_that_is_rebooted_serves_current_again_by_itself(shop: Shop) -> None:
    shop.configure()
    live = deploy_another(shop)
    shop.server.reboot()
    await_page(shop)
    assert ask(shop.server) == (200, live)
    for unit in (f"pos-web@{live}", f"pos-worker@{live}", "pos-beat"):
        await_that(
            lambda unit=unit: shop.server.run(f"systemctl is-active {unit}", check=False).stdout.strip() == "active",
            lambda unit=unit: f"{unit} did not come back",
        )
    assert generations(shop) == {live}
    assert Path(shop.server.run("readlink /srv/pos/current").stdout.strip()).name == live
