"""What is left when a deploy ends in the middle: killed, interrupted, cut off, without power, or by somebody else's."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.servers import Server, faults
from tests.servers.shop import ROOT, Shop

from .conftest import await_page, nightly
from .load import Load, Watch, assert_none, load, watch

pytestmark = pytest.mark.server

REVISIONS = ("base", "code-only", "new-requirement")
SEED = int(os.environ.get("FAB_RELEASES_SEED", "20261122"))
KILLS = 20

LEFTOVERS = r"""
cd /srv/pos; live=$(basename "$(readlink current)")
ls -d staging/* .current.* releases/.gc-* environments/.[gn]* .releases/lock.[0-9]* 2>/dev/null
flock -n .releases/lock true || echo "locked by $(cat .releases/lock)"
for one in releases/*/release.json; do
  case $(sed 's/.*"state": "\([a-z]*\)".*/\1/' $one) in
    live) [ $one = releases/$live/release.json ] || echo "$one is live too" ;;
    retired | bad) ;;
    *) echo "$one is no release" ;;
  esac
done
systemctl list-units --plain --no-legend --state=active,activating,failed 'pos-*@*' | grep -v "@$live\."
for one in web@$live worker@$live beat; do systemctl is-active -q pos-$one.service || echo "pos-$one does not run"; done
beat=$(readlink "/proc/$(systemctl show -P MainPID pos-beat.service)/cwd")
[ "$beat" = "/srv/pos/releases/$live" ] || echo "beat is in $beat"
"""


# -- looking


def leftovers(shop: Shop) -> list[str]:
    return shop.server.run(LEFTOVERS, check=False).stdout.splitlines()


def assert_tidy(shop: Shop) -> None:
    """Soon: a retired generation finishes what it has in hand, and files go in the background."""
    deadline = time.monotonic() + 90
    while (left := leftovers(shop)) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert left == []


def is_locked(server: Server) -> bool:
    """Everything a run starts on a server holds its lock: free means that all of it has ended."""
    return server.run("flock -n /srv/pos/.releases/lock true", check=False).returncode != 0


def await_unlocked(server: Server, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while is_locked(server):
        assert time.monotonic() < deadline, f"still locked after {seconds} s"
        time.sleep(0.2)


def assert_complete(shop: Shop) -> str:
    """What is live is whole, was proved well, and answers; its id."""
    live = shop.current()
    shop.server.run(f"cd /srv/pos/releases/{live} && test -s release.json && .venv/bin/python -c 'import django'")
    assert json.loads(shop.get())["release"] == live
    return live


def journal(shop: Shop) -> list[dict[str, str]]:
    lines = shop.server.run("cat /srv/pos/.releases/journal.jsonl").stdout.splitlines()
    return [json.loads(line) for line in lines]


def next_revision(shop: Shop) -> str:
    """Another one than is live."""
    live = json.loads(shop.server.run("cat /srv/pos/current/release.json").stdout)["ref"]
    return REVISIONS[(REVISIONS.index(live) + 1) % len(REVISIONS)] if live in REVISIONS else REVISIONS[0]


@contextmanager
def users(shop: Shop) -> Iterator[tuple[Load, Watch]]:
    """A few people are there all the time, and none of them may notice anything."""
    with watch(shop.server) as looking, load(shop.server.address, rate=20) as some:
        yield some, looking
    assert_none(answer for answer in some.answers if not answer.ok)
    assert_none(answer for answer in some.answers if answer.release and not looking.was_live(answer))


# -- a deploy that can be followed


@contextmanager
def deploying(shop: Shop, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`fab deploy WORDS --json`, under way; gone after the block."""
    process = shop.start("deploy", *words, "--json")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def await_step(process: subprocess.Popen[str], step: str) -> None:
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith("{") and (event := json.loads(line))["event"] == "step_started" and event["step"] == step:
            return
    raise AssertionError(f"it ended before {step}:\n" + "".join(told[-10:]))


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """Exit code, and the rest of what it said. Raises TimeoutExpired when it does not end by itself."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


# -- killed


def test_a_deploy_killed_at_any_moment_needs_somebody_to_clean_up(
    shop: Shop, figures: list[str], pytestconfig: pytest.Config
) -> None:
    kills = KILLS if pytestconfig.getoption("--nightly") else KILLS // 5
    began = time.monotonic()
    shop.fab("deploy", "--ref", "code-only", "--force")
    duration = time.monotonic() - began
    chance = random.Random(SEED)
    instants = [(number + chance.random()) / kills * duration for number in range(kills)]
    chance.shuffle(instants)
    went_live, nexts = 0, []
    with users(shop) as (_, looking):
        for instant in instants:
            before, revision = shop.current(), next_revision(shop)
            with deploying(shop, "--ref", revision, "--force") as process:
                time.sleep(instant)
                process.kill()
            after = assert_complete(shop)
            began = time.monotonic()
            shop.fab("deploy", "--ref", revision)
            nexts.append(time.monotonic() - began)
            assert_complete(shop)
            assert_tidy(shop)
            went_live += after != before
    proved = {line["release"] for line in journal(shop) if line["event"] == "live"}
    assert set(looking.releases) <= proved
    figures.append(
        f"{kills} kills (seed {SEED}) within {duration:.1f} s: {went_live} had switched, "
        f"the next deploy took {min(nexts):.1f} to {max(nexts):.1f} s"
    )


# -- interrupted


@pytest.mark.parametrize(
    ("step", "sent", "revision"),
    [
        pytest.param("environment", [signal.SIGINT], "new-requirement", marks=pytest.mark.nightly),
        pytest.param("boot", [signal.SIGTERM], "new-requirement", marks=pytest.mark.nightly),
        ("migrate", [signal.SIGINT], "additive-migration"),
        ("workers", [signal.SIGINT, signal.SIGINT], "new-requirement"),
        ("switch", [signal.SIGTERM], "new-requirement"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(one.name for one in value),
)
def test_an_interrupted_deploy_goes_on_without_its_operator(
    shop: Shop, figures: list[str], step: str, sent: list[signal.Signals], revision: str
) -> None:
    shop.fab("deploy", "--ref", "base")
    before = shop.current()
    with users(shop), deploying(shop, "--ref", revision) as process:
        await_step(process, step)
        began = time.monotonic()
        for one in sent:
            process.send_signal(one)
            time.sleep(0.3)
        code, said = ended(process)
        took = time.monotonic() - began
        assert not is_locked(shop.server), "remote work goes on"
        assert shop.current() == before
    assert code == 130, said
    assert "Traceback" not in said
    assert "This is a bug" not in said
    assert assert_complete(shop) == before
    shelf = "select count(*) from information_schema.columns where column_name = 'shelf'"
    assert shop.server.run(f'psql -qAt -d pos -c "{shelf}"', user="postgres").stdout.strip() == "0"
    shop.fab("deploy", "--ref", "code-only")
    assert_tidy(shop)
    figures.append(f"{'+'.join(one.name for one in sent)} in {step}: prompt back after {took:.1f} s")


# -- cut off


@contextmanager
def held_at(server: Server, moment: str, seconds: float = 4) -> Iterator[Callable[[], None]]:
    """The switch stands still just "before" its rename, or just "after" it; the value waits until it does."""
    paths = {"before": "'-f /srv/pos/releases/'*", "after": "/srv/pos"}
    said = f"/tmp/held-{time.monotonic_ns()}"
    script = f'#!/bin/sh\ncase "$*" in {paths[moment]}) touch {said}; sleep {seconds};; esac\nexec /usr/bin/sync "$@"\n'
    server.put("/usr/local/bin/sync", script, 0o755)

    def wait() -> None:
        deadline = time.monotonic() + 120
        while server.run(f"test -e {said}", check=False).returncode != 0:
            assert time.monotonic() < deadline, "the switch never came"

    try:
        yield wait
    finally:
        server.start()
        server.run(f"rm -f /usr/local/bin/sync {said}")


def moment_of(shop: Shop, process: subprocess.Popen[str], moment: str, stack: ExitStack) -> Callable[[], None]:
    """Waits for a step, or for "before" or "after" the rename of `current`."""
    if moment in ("before", "after"):
        return stack.enter_context(held_at(shop.server, moment))
    return lambda: await_step(process, moment)


@pytest.mark.parametrize("moment", [*nightly("environment", "boot", "before"), "after"])
def test_a_cut_link_leaves_fab_hanging_or_the_server_half_done(shop: Shop, figures: list[str], moment: str) -> None:
    before, revision = shop.current(), next_revision(shop)
    with ExitStack() as stack:
        process = stack.enter_context(deploying(shop, "--ref", revision))
        moment_of(shop, process, moment, stack)()
        with faults.cut_link(shop.server):
            began = time.monotonic()
            code, said = ended(process)
            noticed = time.monotonic() - began
            await_unlocked(shop.server)
            freed = time.monotonic() - began
            live = assert_complete(shop)
    assert "unknown" in said, said
    assert "Traceback" not in said
    assert "Socket exception" not in said, "the library has a word too"
    # Until it noticed, the server may have gone on as far as the migrations: somebody should look.
    assert code == 6, said
    assert (live == before) == (moment in ("environment", "boot")), "a switch begun goes through, no other does"
    shop.fab("deploy", "--ref", revision)
    assert_tidy(shop)
    figures.append(f"link cut in {moment}: noticed after {noticed:.1f} s, the server was done after {freed:.1f} s")


# -- without power


@pytest.mark.parametrize("moment", [*nightly("static", "retire", "after"), "before"])
def test_a_server_that_lost_power_does_not_come_back_by_itself(shop: Shop, figures: list[str], moment: str) -> None:
    before, revision = shop.current(), next_revision(shop)
    with ExitStack() as stack:
        process = stack.enter_context(deploying(shop, "--ref", revision))
        moment_of(shop, process, moment, stack)()
        shop.server.power_loss()
        began = time.monotonic()
        shop.server.start()
        await_page(shop)
        up = time.monotonic() - began
        live = assert_complete(shop)
        assert (live == before) == (moment in ("static", "before"))
        code, said = ended(process)
        # While tidying, the release was live and recorded: that is what was asked for.
        assert code == (0 if moment == "retire" else 6), said
        assert "connection was lost" in said
        assert "Traceback" not in said
    shop.fab("deploy", "--ref", revision)
    assert_complete(shop)
    assert_tidy(shop)
    figures.append(f"power lost in {moment}: pages again {up:.1f} s later")


# -- somebody else


def test_two_operators_at_the_same_moment(shop: Shop) -> None:
    revision, began = next_revision(shop), datetime.now(UTC).replace(microsecond=0)
    both = [shop.start("deploy", "--ref", revision, "--force") for _ in range(2)]
    codes, said = zip(*(ended(one) for one in both), strict=True)
    assert sorted(codes) == [0, 3], "\n".join(said)
    told = re.search(r"locked by \S+@\S+ \(process \d+\): deploy (\S+), since (\S+ \S+) UTC", said[codes.index(3)])
    assert told, said[codes.index(3)]
    assert told[1] == revision
    assert datetime.fromisoformat(told[2] + "+00:00") >= began, "that is who held it before"
    assert_tidy(shop)


def test_the_second_operator_waits(shop: Shop) -> None:
    revision, known = next_revision(shop), len(journal(shop))
    both = [shop.start("deploy", "--ref", revision, "--force", "--wait", "120s") for _ in range(2)]
    ends = [ended(one) for one in both]
    assert [code for code, _ in ends] == [0, 0], ends
    assert [line["event"] for line in journal(shop)[known:]] == ["live", "live"]
    assert sum("waiting for" in said for _, said in ends) == 1
    assert_tidy(shop)


def test_a_frozen_stage_is_deployed_to(shop: Shop) -> None:
    before, revision = shop.current(), next_revision(shop)
    shop.fab("freeze", "the tills are counted")
    for words in (("deploy", "--ref", revision), ("rollback", "--yes")):
        refused = shop.fab(*words, check=3)
        assert "the tills are counted" in refused.stderr
        assert "fab unfreeze" in refused.stderr
    assert shop.current() == before
    shop.fab("unfreeze")
    shop.fab("deploy", "--ref", revision)
    assert shop.current() != before


# -- by hand, or by a bad disk

MAIN_PIDS = "systemctl show -p MainPID --value 'pos-web@*.service' 'pos-worker@*.service' | sort"


def test_a_current_that_is_gone_is_put_back_and_users_lose_no_process(fresh: Shop) -> None:
    shop = fresh  # whose services have all begun and none is still ending
    before, pids = shop.current(), shop.server.run(MAIN_PIDS).stdout
    for harm in ("rm current", "ln -sfnT releases/20200101-000000-0000000 current", "ln -sfnT shared current"):
        shop.server.run(f"cd /srv/pos && {harm}", user="deploy")
        done = shop.fab("repair")
        assert f"put back to {before}, which was live before" in done.stderr
        assert assert_complete(shop) == before
    shop.server.run("echo >/srv/pos/current/release.json", user="deploy")
    assert "could not be read: written again" in shop.fab("repair").stderr
    assert shop.server.run(MAIN_PIDS).stdout == pids
    shop.fab("deploy", "--ref", "code-only", "--force")
    assert assert_complete(shop) != before


# -- what the disk really has


POWER_LOSS = """
import fcntl, os, struct, sys
EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/ext4.h
NOT_EVEN_THE_JOURNAL = 2
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), EXT4_IOC_SHUTDOWN, struct.pack("I", NOT_EVEN_THE_JOURNAL))
"""
FILES = 300

TRIAL = r"""
set -euo pipefail
disk=$1 place=$2 library=$3 careless=$4 power_loss=$5 files=$6
mount -o loop "$disk" "$place" || exit 77
exec 3>/dev/null
for part in "$library"/*.sh; do . "$part"; done
DEPLOY_TO=$place/pos RUN=$place/run NONCE=none APPLICATION=pos MANAGER=none SERVICES=() LOCKED=
PRIVATE=$DEPLOY_TO/.releases RELEASES=$DEPLOY_TO/releases STAGING=$DEPLOY_TO/staging SHARED=$DEPLOY_TO/shared
ENVIRONMENTS=$DEPLOY_TO/environments
prepare_folders

build() { # ID LETTER
  mkdir -p "$STAGING/$1/.release" "$STAGING/$1/.venv/bin"
  ln -s "$(command -v python3)" "$STAGING/$1/.venv/bin/python"
  for ((file = 0; file < files; file++)); do printf '%4000s' "$2" >"$STAGING/$1/$file"; done
  echo '{}' >"$STAGING/$1/.release/services.json"
  finish_build "$1" '{"state": "ready", "files": 0}'
}

build 20260101-000000-aaaaaa1 a
publish 20260101-000000-aaaaaa1 '' retired '' tester first
sync
[ -z "$careless" ] || sync() { :; }
build 20260101-000000-aaaaaa2 b
publish 20260101-000000-aaaaaa2 20260101-000000-aaaaaa1 retired '' tester second
# Databases and logs do this all the time. Without it the journal is not written, and no damage shows.
echo >"$place/other"
command sync "$place/other"
python3 -c "$power_loss" "$place"
umount "$place"
mount -o loop "$disk" "$place"

cd "$place/pos/current"
[ -s release.json ] || echo release.json
letter=a
[ "$(current_id)" = 20260101-000000-aaaaaa1 ] || letter=b
for ((file = 0; file < files; file++)); do [ "$(cat $file)" = "$(printf '%4000s' $letter)" ] || echo "$file"; done
cd /
umount "$place"
"""


def damaged_by_power_loss(folder: Path, *, careless: bool) -> list[str]:
    """Files of the live release that are not what was built, when the power goes just after a switch.

    A disk of its own, and a view of the mounts of its own: a server booted meanwhile would keep the disk mounted.
    Skips where there are no loop devices.
    """
    disk, place = folder / "disk", folder / "place"
    place.mkdir(parents=True)
    subprocess.run(["mkfs.ext4", "-q", str(disk), "96M"], check=True, capture_output=True)
    alone = ["unshare", "--mount", "--propagation", "private", "bash", "-c", TRIAL, "trial"]
    words = [disk, place, ROOT / "templates/server", "careless" if careless else "", POWER_LOSS, FILES]
    done = subprocess.run([*alone, *map(str, words)], capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"no ext4 on a loop device here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_the_disk_forgets_what_a_switch_has_published(tmp_path: Path, figures: list[str]) -> None:
    careless = damaged_by_power_loss(tmp_path / "careless", careless=True)
    assert careless, "without syncs nothing is damaged either: this test could not fail"
    assert damaged_by_power_loss(tmp_path / "ours", careless=False) == []
    figures.append(f"power lost after the switch: 0 of {FILES} files damaged; without its syncs {len(careless)}")


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What was measured, printed when all is done."""
    found: list[str] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *found, sep="\n  ")
