"""Uploads and configuration put back by date: as they were then, and never worse than before."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tasks.config.load import load, stage
from tasks.model.shell import Secret
from tasks.remote import files
from tasks.remote.machine import backups, ssh
from tasks.remote.machine.stores import Offsite
from tests.servers.shop import Shop, install_parts

from .conftest import await_page

pytestmark = pytest.mark.server
MEDIA = "/srv/pos/shared/media"
BESIDE = "/srv/pos/shared/.fab-restore"
SITE = "/etc/nginx/sites-available/pos"
UNIT = "'/etc/systemd/system/pos-web@.service'"
VARIABLES = "/srv/pos/shared/.env.production"
AS_BEFORE = "tar -P -xpf /root/before.tar; systemctl daemon-reload"
MORE = '[backup]\nrepository = "/srv/vault/pos"\n'


@pytest.fixture(scope="module")
def shop(shop: Shop) -> Shop:
    """Three receipts and the configuration were sent away; provisioning's part of it is done by hand, for time."""
    shop.configure(MORE)
    here = stage(load(shop.folder / "releases.toml"))
    install_parts(shop.server, backups.parts(here, here.primary, Offsite(Secret("a key\n"))))
    receipts = f"{MEDIA}/receipts"
    shop.server.run(
        f"mkdir -p {receipts}; for i in 1 2 3; do echo sale $i >{receipts}/$i.txt; done; touch {receipts}/scan.part; "
        f"ln -s 1.txt {receipts}/first; chown -hR 4242:4242 {receipts}"  # as a server where accounts have other numbers
    )
    shop.server.run("/usr/local/lib/fab-releases/pos-offsite", timeout=120)
    shop.server.run(f"chown -hR app:app {MEDIA}; cp -a {MEDIA} /root/media")
    return shop


@pytest.fixture
def spoiled(shop: Shop) -> Iterator[Shop]:
    """Since then one receipt was deleted, one overwritten, one added."""
    shop.configure(MORE)
    shop.server.run(
        f"cd {MEDIA}/receipts && rm 2.txt && echo spoiled >1.txt && echo sale 4 >4.txt && chown app:app 4.txt"
    )
    yield shop
    shop.server.run(f"rm -rf {BESIDE} {MEDIA}; cp -a /root/media {MEDIA}")


@pytest.fixture
def configured(shop: Shop) -> Iterator[Shop]:
    shop.configure(MORE)
    shop.server.run(f"tar -P -cf /root/before.tar {SITE} {UNIT} {VARIABLES} /etc/sudoers.d/pos")
    yield shop
    shop.server.run(f"{AS_BEFORE}; nginx -q -t && systemctl reload nginx")


def send_away(shop: Shop) -> str:
    """One more of this day; its name."""
    restic(shop, "backup --host pos --tag fab-releases /etc /srv/pos/shared")
    return str(json.loads(restic(shop, "snapshots --json latest"))[0]["short_id"])


def restic(shop: Shop, words: str) -> str:
    said = "RESTIC_PASSWORD_FILE=/etc/fab-releases/pos.key restic --quiet -r /srv/vault/pos"
    return shop.server.run(f"{said} {words}", timeout=120).stdout


def receipts(shop: Shop) -> str:
    """Names and contents, with owner and mode."""
    return shop.server.run(f"cd {MEDIA}/receipts && stat -c '%n %U:%G %a' * && cat *.txt").stdout


def test_uploads_of_another_day_come_back_and_todays_are_lost(spoiled: Shop) -> None:
    """What would change is shown first; owners by name; --undo and back again; nothing is left but what is kept."""
    before = receipts(spoiled)
    shown = spoiled.fab("restore-media", "--date", "latest", check=2).stderr
    for line in ("1 come back: receipts/2.txt", "1 go: receipts/4.txt", "1 change: receipts/1.txt"):
        assert line in shown
    assert receipts(spoiled) == before
    told = spoiled.fab("restore-media", "--date", "latest", "--yes")
    restored = receipts(spoiled)
    assert "sale 1\nsale 2\nsale 3" in restored
    assert "4.txt" not in restored
    assert "scan.part" in restored
    assert all(" app:app " in line for line in restored.splitlines() if "txt " in line)
    assert "0.0 h ago" in told.stderr
    for expected in (before, restored, before):
        spoiled.fab("restore-media", "--undo", "--yes")
        assert receipts(spoiled) == expected
    assert spoiled.server.run(f"ls {BESIDE}").stdout.split() == ["kept"]
    journal = spoiled.server.run("tail -n 4 /srv/pos/.releases/journal.jsonl; stat -c %U /srv/pos/.releases/*.jsonl")
    assert [json.loads(line)["event"] for line in journal.stdout.splitlines()[:4]] == ["restored"] * 4
    assert journal.stdout.splitlines()[4] == "deploy"


def test_a_snapshot_plants_a_link_a_program_of_roots_or_a_pipe(spoiled: Shop) -> None:
    """Each refused by its name before anything live is touched; --leave-out brings the rest back, and none of them."""
    run = spoiled.server.run
    before = receipts(spoiled)
    run(f"mv {MEDIA}/receipts /root/now; mkdir {MEDIA}/receipts; cd {MEDIA}/receipts; echo 5 >5.txt")
    run(f"cd {MEDIA}/receipts; ln -s ../../.env.production evil")
    first = send_away(spoiled)
    run(f"cd {MEDIA}/receipts; cp /bin/true suid; chmod 4755 suid; mkfifo pipe")
    second = send_away(spoiled)
    run(f"rm -r {MEDIA}/receipts; mv /root/now {MEDIA}/receipts")
    refused = spoiled.fab("restore-media", "--date", "latest", "--yes", check=4)
    assert "receipts/pipe" in refused.stderr
    assert "receipts/suid" in refused.stderr
    restic(spoiled, f"forget {second}")
    assert "receipts/evil" in spoiled.fab("restore-media", "--date", "latest", "--yes", check=1).stderr
    assert receipts(spoiled) == before
    spoiled.fab("restore-media", "--date", "latest", "--yes", "--leave-out")
    assert run(f"ls -A {MEDIA}/receipts").stdout.split() == ["5.txt"]
    restic(spoiled, f"forget {first}")


STATE = f"cat {SITE} {UNIT} {VARIABLES} /etc/sudoers.d/pos; stat -c '%n %U:%G %a' {SITE} {UNIT} {VARIABLES}"


def test_an_old_configuration_breaks_the_shop(configured: Shop) -> None:
    """By date: the diff, of variables their names only; in use; undone; and one that does not work is put back."""
    shop, run = configured, configured.server.run
    then = run(STATE).stdout
    run(f"echo '# by hand' >>{SITE}; sed -i s/ProtectHome=yes/ProtectHome=no/ {UNIT}; rm /etc/sudoers.d/pos")
    run(f"sed -i s/^POS_SLOW=1/POS_SLOW=hush/ {VARIABLES}; echo ADDED=hush >>{VARIABLES}")
    before = run(f"{STATE}; true", check=False).stdout
    shown = shop.fab("restore-config", "--date", "latest", check=2).stderr
    assert "-# by hand" in shown
    assert "+ProtectHome=yes" in shown
    assert "go: ADDED; change: POS_SLOW" in shown
    assert "hush" not in shown
    shop.fab("restore-config", "--date", "latest", "--yes")
    assert run(STATE).stdout == then
    assert "POS_SLOW=1" in environment(shop)
    shop.fab("restore-config", "--undo", "--yes")
    assert run(f"{STATE}; true", check=False).stdout == before
    assert "POS_SLOW=hush" in environment(shop)
    run(f"cp -a {VARIABLES} /root/variables; sed -i /^SECRET_KEY/d {VARIABLES}")
    snapshot = send_away(shop)
    run(f"cp -a /root/variables {VARIABLES}")
    assert "does not start" in shop.fab("restore-config", "--date", "latest", "--yes", check=5).stderr
    assert run(f"{STATE}; true", check=False).stdout == before
    assert json.loads(shop.get())["ok"] is True
    restic(shop, f"forget {snapshot}")
    assert run("ls -A /var/lib/fab-releases/begun").stdout == ""


def environment(shop: Shop) -> str:
    """Of the web processes that run."""
    pid = f"$(systemctl show -p MainPID --value pos-web@{shop.current()}.service)"
    return shop.server.run(f"tr '\\0' '\\n' </proc/{pid}/environ").stdout


SPOILT = {
    "a site that nginx refuses": (f"echo 'nonsense;' >>{SITE}", 1, "nonsense"),
    "a password the database does not know any more": (f"sed -i s/pos:pos@/pos:old@/ {VARIABLES}", 5, "not well"),
    "variables nobody can read": (f'echo "A=\'b" >>{VARIABLES}', 1, "line"),
    "a rule that sudo refuses": ("echo nonsense >>/etc/sudoers.d/pos", 1, "visudo"),
    "a unit that systemd refuses": (f"sed -i s/^Type=.*/Type=nonsense/ {UNIT}", 1, "units"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", SPOILT)
def test_what_was_broken_then_goes_live(configured: Shop, name: str) -> None:
    how, code, told = SPOILT[name]
    run = configured.server.run
    then = run(STATE).stdout
    run(how)
    snapshot = send_away(configured)
    run(AS_BEFORE)
    try:
        assert told in configured.fab("restore-config", "--date", "latest", "--yes", check=code).stderr
        assert run(STATE).stdout == then
        assert json.loads(configured.get())["ok"] is True
        run("nginx -q -t")
    finally:
        restic(configured, f"forget {snapshot}")


@pytest.mark.nightly
def test_a_restored_sshd_is_taken_back_unseen(configured: Shop) -> None:
    """It stays when a second connection came in, and nothing waits to undo it."""
    configured.configure(MORE + "[provision]\nssh = true\n")
    here, run = stage(load(configured.folder / "releases.toml")), configured.server.run
    configured.server.put(ssh.PATH, files.render("sshd.conf", here, settings=ssh.SETTINGS))
    snapshot = send_away(configured)
    run(f"sed -i 's/MaxAuthTries 4/MaxAuthTries 6/' {ssh.PATH}; sshd -t && systemctl reload ssh")
    try:
        told = configured.fab("restore-config", "--date", "latest", "--yes").stderr
        assert "a second connection came in" in told
        assert "maxauthtries 4" in run("sshd -T").stdout
        run("! test -e /var/lib/fab-releases/unproven/ssh && ! test -e /etc/systemd/system/fab-releases-undo.service")
    finally:
        run(f"rm {ssh.PATH}; systemctl reload ssh")
        restic(configured, f"forget {snapshot}")


@pytest.mark.nightly
def test_variables_that_nobody_can_read_any_more_cannot_come_back(configured: Shop) -> None:
    then = configured.server.run(STATE).stdout
    configured.server.run(f'echo "A=\'b" >>{VARIABLES}')
    told = configured.fab("restore-config", "--date", "latest", "--yes").stderr
    assert "cannot be read" in told
    assert configured.server.run(STATE).stdout == then


@pytest.mark.nightly
def test_a_repository_that_cannot_be_opened_touches_something(spoiled: Shop) -> None:
    """Not configured, with another key, or away: one sentence with the next step."""
    before = receipts(spoiled)
    spoiled.configure()
    for verb in ("restore-media", "restore-config"):
        assert "[backup] repository is not set" in spoiled.fab(verb, "--date", "latest", "--yes", check=2).stderr
    spoiled.configure(MORE)
    run = spoiled.server.run
    for spoil, mend in (
        ("mv /srv/vault/pos /srv/vault/away", "mv /srv/vault/away /srv/vault/pos"),
        ("echo wrong >/etc/fab-releases/pos.key", "echo a key >/etc/fab-releases/pos.key"),
        ("mv /etc/fab-releases/pos.key /root/key", "mv /root/key /etc/fab-releases/pos.key"),
    ):
        run(spoil)
        for verb in ("restore-media", "restore-config"):
            refused = spoiled.fab(verb, "--date", "latest", "--yes", check=4)
            assert "/srv/vault/pos" in refused.stderr
            assert "hint" in refused.stderr
        run(mend)
    assert receipts(spoiled) == before
    assert "no snapshot at or before" in spoiled.fab("restore-media", "--date", "-3d", "--yes", check=4).stderr
    assert "not in shared_dirs" in spoiled.fab("restore-media", "--date", "latest", "--path", "../etc", check=2).stderr


def test_a_repository_that_is_gone_is_begun_anew_as_if_nothing_had_been(shop: Shop) -> None:
    """A disk that is not mounted, say: a new repository would lie on the very server it is for."""
    shop.server.run("mv /srv/vault/pos /srv/vault/elsewhere")
    try:
        sent = shop.server.run("/usr/local/lib/fab-releases/pos-offsite", check=False, timeout=120)
        assert sent.returncode == 1
        assert "/srv/vault/pos held what was sent away before, and cannot be opened now" in sent.stderr
        assert "config" in sent.stderr, "restic's own words"
        assert shop.server.run("ls /srv/vault").stdout.split() == ["elsewhere"]
    finally:
        shop.server.run("rm -rf /srv/vault/pos && mv /srv/vault/elsewhere /srv/vault/pos")


@pytest.mark.nightly
def test_a_killed_restore_leaves_half_the_uploads(spoiled: Shop) -> None:
    """kill -9 of fab and of what it began, at random moments: all uploads are of then, or all of now."""
    chance = random.Random(6)
    run = spoiled.server.run
    now = receipts(spoiled)
    spoiled.fab("restore-media", "--date", "latest", "--yes")
    then = receipts(spoiled)
    seen = set()
    for _ in range(12):
        begun = spoiled.start("restore-media", "--date", "latest", "--yes", "--wait", "1m")
        time.sleep(chance.uniform(1.0, 6.0))
        begun.send_signal(signal.SIGKILL)
        begun.wait()
        run("pgrep -f '[p]ython3 -IS -c' | xargs -r kill -9; pgrep -x restic | xargs -r kill -9; true")
        assert receipts(spoiled) in (now, then)
        seen |= set(run(f"ls -A {BESIDE}").stdout.split())
    print(f"\n  left behind in 12 deaths: {sorted(seen)}")
    spoiled.fab("restore-media", "--date", "latest", "--yes", "--wait", "1m")
    assert receipts(spoiled) == then
    assert run(f"ls -A {BESIDE}").stdout.split() == ["kept"]


@pytest.mark.nightly
def test_a_killed_restore_leaves_half_a_configuration(configured: Shop) -> None:
    """The next run takes back what the killed one had begun, before it does anything."""
    shop, chance = configured, random.Random(7)
    run = shop.server.run
    state = f"cat {SITE} {VARIABLES}"
    then = run(state).stdout
    for _ in range(8):
        run(f"echo '# by hand' >>{SITE}; echo ADDED=yes >>{VARIABLES}")
        begun = shop.start("restore-config", "--date", "latest", "--yes", "--wait", "1m")
        time.sleep(chance.uniform(3.0, 9.0))
        begun.send_signal(signal.SIGKILL)
        begun.wait()
        shop.fab("restore-config", "--date", "latest", "--yes", "--wait", "1m")
        assert run(state).stdout == then
        assert json.loads(shop.get())["ok"] is True
        left = run("cd /var/lib/fab-releases && ls -A begun configuration/pos").stdout
        assert not {"before", "wanted", "restarted"} & set(left.split())


@pytest.mark.nightly
def test_a_full_disk_takes_the_uploads_with_it(spoiled: Shop) -> None:
    """Too little room is refused beforehand; a disk that fills meanwhile ends the run: the uploads are untouched."""
    before = receipts(spoiled)
    text = (spoiled.folder / "releases.toml").read_text()
    (spoiled.folder / "releases.toml").write_text(text.replace('branch = "main"', 'minimum_free = "900000GB"'))
    assert "MB are free" in spoiled.fab("restore-media", "--date", "latest", "--yes", check=4).stderr
    spoiled.configure(MORE)
    spoiled.server.run(f"head -c 300000 /dev/urandom >{MEDIA}/large && chown app: {MEDIA}/large")
    snapshot = send_away(spoiled)
    spoiled.server.run(
        f"rm {MEDIA}/large; mkdir -pm 700 {BESIDE} && mount -t tmpfs -o size=100k,mode=700 tmpfs {BESIDE}"
    )
    try:
        assert "space" in spoiled.fab("restore-media", "--date", "latest", "--yes", check=1).stderr
        assert spoiled.server.run(f"ls -A {BESIDE}").stdout == ""
    finally:
        spoiled.server.run(f"umount {BESIDE}")
        restic(spoiled, f"forget {snapshot}")
    assert receipts(spoiled) == before


@pytest.mark.nightly
def test_users_get_404_while_uploads_are_exchanged(spoiled: Shop) -> None:
    """A receipt that is in both is read without a pause, through three exchanges."""
    spoiled.server.run(
        "cat >/root/read.sh <<'EOF'\nwhile [ ! -e /root/stop ]; do curl -s -o /dev/null -w '%{http_code}\\n' -m 5 "
        "-H 'Host: pos.test' http://127.0.0.1/media/receipts/3.txt; done >/root/answers\nEOF\n"
        "rm -f /root/stop; nohup bash /root/read.sh >/dev/null 2>&1 &"
    )
    spoiled.fab("restore-media", "--date", "latest", "--yes")
    for _ in range(2):
        spoiled.fab("restore-media", "--undo", "--yes")
    answers = spoiled.server.run("touch /root/stop; sleep 1; sort /root/answers | uniq -c").stdout
    print(f"\n  {answers.strip()}")
    assert set(answers.split()[1::2]) == {"200"}
    await_page(spoiled)


@pytest.mark.nightly
def test_uploads_that_are_gone_altogether_cannot_come_back(spoiled: Shop) -> None:
    spoiled.server.run(f"rm -rf {MEDIA}")
    spoiled.fab("restore-media", "--date", "latest", "--yes", "--path", "media")
    assert "sale 2" in receipts(spoiled)
    spoiled.server.run(f"rm {MEDIA}/receipts/3.txt; echo kept >{MEDIA}/other; chown app: {MEDIA}/other")
    spoiled.fab("restore-media", "--date", "latest", "--yes", "--path", "media/receipts")
    assert "sale 3" in receipts(spoiled)
    assert spoiled.server.run(f"cat {MEDIA}/other").stdout == "kept\n"


def test_uploads_come_back_without_a_repository_and_a_wrong_key_is_named(spoiled: Shop) -> None:
    """fab backup copies them on the server itself, says so each time, and restore-media takes them from there."""
    run, key = spoiled.server.run, spoiled.folder / "mine.key"
    spoiled.configure(f'{MORE}key = "{key}"\n')
    assert f"{key} is not here" in spoiled.fab("check", check=None).stdout
    key.write_text("another key\n")
    assert f"{key} is another key than app1 uses" in spoiled.fab("check", check=None).stdout
    key.write_text("a key\n")
    found = spoiled.fab("check", check=None).stdout
    assert f"{key} is the key that app1 uses" in found
    assert "app1 opens /srv/vault/pos" in found
    settings = "/usr/local/lib/fab-releases/pos-offsite.json"
    run(f"cp {settings} /root/settings; sed -i 's,/srv/vault/pos,,' {settings}")
    spoiled.configure("")
    try:
        before = receipts(spoiled)
        told = spoiled.fab("backup").stderr
        assert "on this server only: [backup] repository is not set" in told
        assert "media: " in told
        assert "backups are on this server only" in spoiled.fab("status").stdout
        run(f"rm {MEDIA}/receipts/*")
        spoiled.fab("restore-media", "--date", "latest", "--yes")
        assert receipts(spoiled) == before
        run(f"rm -r {MEDIA}/receipts")
        assert "media has no file any more" in spoiled.fab("backup", check=1).stderr
        assert "copying media and configuration failed" in spoiled.fab("status").stdout
    finally:
        run(f"mv /root/settings {settings}; systemctl reset-failed; rm -r /var/backups/fab-releases")
