"""What the best-known release tools get wrong today, each reproduced there, and what happens here instead."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.server.conftest import put_back
from tests.server.looking import (
    ask,
    await_that,
    deploy_another,
    edit,
    generations,
    nothing_left,
    releases,
    said,
    unseen,
    watched,
)
from tests.servers.faults import slow_link
from tests.servers.shop import Shop

pytestmark = pytest.mark.server

NAP = "sleep 7654"


def start_and_wait_for_nap(shop: Shop) -> subprocess.Popen[str]:
    """A deploy that is busy with a command on the server, and would be for two hours."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a run in the background ignores it, and so would its children
    shop.configure(f'[hooks]\nafter_checkout = ["{NAP}"]\n')
    process = shop.start("deploy", "--ref", "code-only", "--force")
    await_that(lambda: napping(shop), lambda: "the deploy never began its work")
    return process


def napping(shop: Shop) -> bool:
    return shop.server.run(f"pgrep -f '^{NAP}'", check=False).returncode == 0


# -- Capistrano


def test_a_link_an_interrupted_run_left_is_never_published(fresh: Shop) -> None:
    """CAP-1: a run that died between `ln` and `mv` left `releases/current`; the next deploy put its own link inside
    that one's target, published the stale one, said "deployed" and exited 0 with the older, failed release live.

    Here a left link is swept away, and what is said to be live is read back, and is what answers.
    """
    old = fresh.current()
    fresh.server.run(
        f"ln -s releases/{old} /srv/pos/.current.1.1 && ln -s {old} /srv/pos/releases/current && "
        "ln -s releases/none /srv/pos/current.new && chown -h deploy: /srv/pos/.current.1.1 /srv/pos/releases/current",
    )
    new = deploy_another(fresh)
    assert (
        fresh.server.run(
            f"find /srv/pos/releases/{old} /srv/pos/releases/{new} -mindepth 1 -maxdepth 1 -name {new}"
        ).stdout
        == ""
    )
    assert fresh.server.run("ls -d /srv/pos/.current.* || true").stdout == ""
    assert new in fresh.fab("status").stdout


def test_a_server_where_the_switch_would_fail_is_refused_before_anything_is_built(shop: Shop) -> None:
    """CAP-1: the `mv` failed on one host because of permissions, after everything had been built.

    Here it is asked before, and named with the command that helps.
    """
    shop.server.run("chown root /srv/pos && chmod 755 /srv/pos")
    with unseen(shop):
        done = shop.fab("deploy", "--ref", "slow-boot", check=4)
    assert "may not write in /srv/pos" in said(done)
    assert "chown deploy" in said(done)
    shop.server.run("chown deploy /srv/pos")
    deploy_another(shop)


def test_ctrl_c_ends_the_work_on_the_server_too(shop: Shop) -> None:
    """CAP-3, DEP-3, KAM-1: after Ctrl-C the remote command ran on, the half-built release stayed and counted, and
    Deployer and Kamal left their lock.

    Here it says 130, nothing runs or is left, and the next deploy just works.
    """
    with unseen(shop):
        process = start_and_wait_for_nap(shop)
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=120)
        assert process.returncode == 130, told
        assert not napping(shop)
    assert "undone" in told
    shop.configure()
    deploy_another(shop)


def test_two_deploys_in_the_same_second_do_not_share_a_release(shop: Shop) -> None:
    """CAP-5: both used the same second as their release's name and wrote into one folder; there was no lock.

    Here one goes live and the other says who is at it, and touches nothing.
    """
    kept = releases(shop)
    both = [shop.start("deploy", "--force", "--ref", ref) for ref in ("code-only", "additive-migration")]
    told = [process.communicate(timeout=180)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 3], told
    loser = next(text for process, text in zip(both, told, strict=True) if process.returncode == 3)
    assert "locked by" in loser
    assert f"{os.environ.get('USER', 'root')}@" in loser
    assert releases(shop) - kept == {shop.current()}


# -- Deployer


def test_failed_deploys_never_push_the_last_good_release_out(fresh: Shop) -> None:
    """DEP-2: with three releases kept, three failed deploys and a good one left no good release to go back to, and
    rollback went to a failed one with exit 0.
    CAP-2, DEP-1: after one failed build, and a good one, `rollback` published the half-built one with exit 0 (and
    Capistrano deleted the good one).

    Here only releases that were live count: those that failed are nowhere, the first is live again, the last is kept.
    """
    good = fresh.current()
    for tag in ("broken-settings", "broken-wsgi", "broken-import"):
        fresh.fab("deploy", "--ref", tag, check=1)
    newer = deploy_another(fresh)
    assert releases(fresh) == {good, newer}
    fresh.fab("rollback")
    assert ask(fresh.server) == (200, good)
    assert releases(fresh) == {good, newer}


def test_a_command_that_fails_on_the_server_fails_here(shop: Shop) -> None:
    """DEP-5: `dep run false` exited 0."""
    shop.fab("manage", "check")
    assert shop.fab("manage", "no-such-command", check=None).returncode not in (0, 70)
    assert shop.fab("manage", "shell -c 'raise SystemExit(37)'", check=None).returncode == 37


def test_a_fleet_migrates_once(shop: Shop) -> None:
    """DEP-6: the recipes for Laravel, Symfony and Yii ran the migrations on every host at once.

    Here the plan has them once, on the primary. (Two hosts that are one server: a plan only looks.)
    """
    pair = Shop(shop.folder / "pair", (shop.server, shop.server))
    pair.folder.mkdir()
    with slow_link(shop.server, 1) as door:
        pair.configure(addresses=[(shop.server.address, shop.server.ssh_port), door])
        told = [json.loads(line) for line in pair.fab("plan", "--ref", "code-only", "--json").stdout.splitlines()]
    steps = [
        (step["name"], *step["hosts"])
        for plan in told
        for phase in plan.get("phases", ())
        for step in phase["steps"]
        if step["name"] in ("migrate", "switch")
    ]
    assert ("migrate", "app1") in steps
    assert not [hosts for name, *hosts in steps if name == "migrate" and hosts != ["app1"]]
    assert {host for name, *hosts in steps if name == "switch" for host in hosts} == {"app1", "app2"}


# -- Mina


def test_rollback_with_one_release_leaves_it_alone(shop: Shop) -> None:
    """MINA-1: it linked to the only release, then deleted it: the site was gone.

    Here there is nothing to go back to, which is said, with what to do instead.
    """
    put_back(shop)
    with unseen(shop):
        done = shop.fab("rollback", check=4)
    assert "nothing to go back to" in said(done)
    assert "fab deploy --ref" in said(done)


def test_a_release_put_back_after_the_switch_takes_its_services_along(shop: Shop) -> None:
    """MINA-2: a hook failed after the swap; the link went back and the services ran on with the new code.

    Here the front door is asked by the switch itself: it is put back with web, worker and beat of the old release.
    """
    shop.configure()
    before, kept = shop.current(), releases(shop)
    edit(
        shop,
        ("[health]\n", '[health]\nfront = "http://127.0.0.1:9"\n'),
        ('"30s"\n\n[services.web]', '"5s"\n\n[services.web]'),
    )
    with watched(shop.server) as seen:
        done = shop.fab("deploy", "--ref", "code-only", "--force", check=5)
    assert {status for status, _ in seen.answers} == {200}
    assert "put back" in said(done)
    nothing_left(shop, before, kept)
    for unit in (f"pos-web@{before}", f"pos-worker@{before}", "pos-beat"):
        assert shop.server.run(f"systemctl is-active {unit}").stdout.strip() == "active"
    beat = shop.server.run("readlink /proc/$(systemctl show -P MainPID pos-beat)/cwd").stdout.strip()
    assert beat == f"/srv/pos/releases/{before}"


def test_a_hook_after_the_switch_that_fails_is_a_warning(shop: Shop) -> None:
    """MINA-2: what is live and well stays: a failing notification must not take a good release down."""
    before = shop.current()
    shop.configure('[hooks]\nafter_switch = ["echo telling everybody; false"]\n')
    done = shop.fab("deploy", "--ref", "code-only", "--force")
    assert "after_switch failed: echo telling everybody; false" in said(done)
    assert before != shop.current()
    assert ask(shop.server) == (200, shop.current())
    assert "oat milk" in shop.get("/")


def test_a_killed_operator_leaves_no_lock(shop: Shop) -> None:
    """MINA-3: the client was killed while building; its lock stayed for ever and the next deploy refused.

    Here the lock lives as long as the work, and the work ends with its operator.
    """
    with unseen(shop):
        process = start_and_wait_for_nap(shop)
        process.kill()
        process.communicate(timeout=60)
        await_that(lambda: not napping(shop), lambda: "what the dead operator began runs on")
        shop.configure()
        shop.fab("repair")
    deploy_another(shop)


# -- Ansistrano


def test_rollback_to_a_release_whose_folder_was_touched(shop: Shop) -> None:
    """ANS-2: of R1, R2, R3 with R3 live, R2's folder was the newest because somebody wrote into it; rollback to R2
    took it for the live one and deleted it: `current` led nowhere.

    Here `current` says what is live, and what is live is never deleted.
    """
    shop.configure()
    second = deploy_another(shop)
    third = deploy_another(shop)
    shop.server.run(f"touch /srv/pos/releases/{second}/note.txt /srv/pos/releases/{second}")
    shop.fab("rollback", "--to", second)
    assert ask(shop.server) == (200, second)
    assert {second, third} <= releases(shop)


# -- Kamal


def test_rollback_to_a_release_that_is_not_kept_fails(shop: Shop) -> None:
    """KAM-1: it printed red text and exited 0."""
    shop.configure()
    with unseen(shop):
        done = shop.fab("rollback", "--to", "20200101-000000-0123456", check=4)
    assert "there is no release 20200101-000000-0123456" in said(done)
    assert "fab releases" in said(done)
    assert generations(shop) == {shop.current()}


# -- shipit


def test_a_real_directory_called_current_is_refused(shop: Shop) -> None:
    """SHIP-1: `current` was a directory; it printed "Release published." and exited 0, and nothing was published.

    Here it is refused before anything is touched, with the way to adopt it.
    """
    shop.server.run("rm /srv/pos/current && install -d -o deploy /srv/pos/current && touch /srv/pos/current/index.py")
    kept = releases(shop)
    done = shop.fab("deploy", "--ref", "code-only", check=4)
    assert "/srv/pos/current is a real directory" in said(done)
    assert "adopt" in said(done)
    assert shop.server.run("ls -A /srv/pos/current /srv/pos/staging").stdout.split() == [
        "/srv/pos/current:",
        "index.py",
        "/srv/pos/staging:",
    ]
    assert releases(shop) == kept
