"""A bare Debian becomes a server that serves, stays one, and says so when somebody changed it by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers import Snapshot
from tests.servers.shop import Shop, fill

from .conftest import await_page

pytestmark = pytest.mark.server
PORT = 7822


@pytest.fixture(scope="module")
def made(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Snapshot]:
    """A bare server that was provisioned once, and its disk right after that."""
    server = boot("bare", ssh_port=PORT, bare=True)
    shop = Shop(tmp_path_factory.mktemp("provision"), (server,))
    shop.configure()
    shop.fab("provision", "--yes", timeout=600)
    fill(server, origin)
    return shop, server.snapshot()


@pytest.fixture
def shop(made: tuple[Shop, Snapshot]) -> Shop:
    """As it was when it had just been provisioned."""
    shop, snapshot = made
    shop.server.reset(snapshot)
    shop.server.settle()
    shop.configure()
    return shop


def test_a_bare_server_that_cannot_be_deployed_to(shop: Shop) -> None:
    """From nothing to a page, a sale in PostgreSQL, a task that ran, a beat that ticks; then again after a reboot."""
    shop.fab("deploy", "--ref", "base", timeout=400)
    served = json.loads(shop.get())
    assert (served["ok"], served["database"], served["cache"]) == (True, "ok", "ok")
    before = shop.current()
    shop.server.reboot()
    await_page(shop)
    assert json.loads(shop.get())["release"] == before


def test_a_second_run_changes_something(shop: Shop) -> None:
    again = shop.fab("provision", "--yes")
    assert "nothing to do" in again.stderr
    assert shop.fab("provision", "--check").returncode == 0


TAMPERED = {
    "/etc/nginx/sites-available/pos": "printf '\\n# by hand\\n' >>",
    "/etc/nginx/nginx.conf": "sed -i s/8192/512/",
    "/etc/sudoers.d/pos": "chmod 666",
    "/etc/systemd/system/pos-web@.service": "sed -i s/ProtectHome=yes/ProtectHome=no/",
    "/etc/systemd/journald.conf.d/50-fab-releases.conf": "rm",
    "/etc/logrotate.d/pos": "rm",
    "/etc/redis/fab-releases.conf": "sed -i 's/^bind .*/bind 0.0.0.0/'",
    "/etc/redis/users.acl": "sed -i 's/default off/default on nopass ~* +@all/'",
    "/srv/pos/shared": "chmod 777",
    "/srv/pos/shared/media": "chown root",
    "/srv/pos/shared/.env.production": "chmod 644",
}


def test_what_somebody_changed_by_hand_is_not_noticed(shop: Shop) -> None:
    """Each one is named by --check; one run mends them all."""
    for path, how in TAMPERED.items():
        shop.server.run(f"{how} {path}")
    shop.server.run("rm /etc/nginx/sites-enabled/pos; systemctl -q disable --now nginx; ufw --force disable")
    shop.server.run("psql -qc 'alter role pos superuser'", user="postgres")
    checked = shop.fab("provision", "--check", "--json", check=1)
    named = {one["thing"] for one in json.loads(checked.stdout)}
    for path in TAMPERED:
        assert any(path in name for name in named) or (path.endswith("users.acl") and "Redis user" in named), path
    assert {"link /etc/nginx/sites-enabled/pos", "unit nginx.service", "firewall", "database role"} <= named
    shop.fab("provision", "--yes", timeout=300)
    assert shop.fab("provision", "--check").returncode == 0
    assert shop.server.run("systemctl is-active nginx").stdout.strip() == "active"


def test_a_changed_file_is_overwritten_unseen(shop: Shop) -> None:
    """Without --yes and nobody to ask: the difference is printed, nothing is changed."""
    shop.server.run("echo '# by hand' >> /etc/nginx/sites-available/pos")
    asked = shop.fab("provision", check=2)
    assert "-# by hand" in asked.stderr
    assert "by hand" in shop.server.run("cat /etc/nginx/sites-available/pos").stdout


def test_secrets_of_the_stage_are_made_again(shop: Shop) -> None:
    """The environment file is written once; lost, it is made anew and the database knows the new password."""
    before = shop.server.run("cat /srv/pos/shared/.env.production").stdout
    shop.server.run("rm /etc/logrotate.d/pos")
    shop.fab("provision", "--yes")
    assert shop.server.run("cat /srv/pos/shared/.env.production").stdout == before
    shop.server.run("rm /srv/pos/shared/.env.production")
    told = shop.fab("provision", "--yes")
    after = shop.server.run("cat /srv/pos/shared/.env.production").stdout
    assert after != before
    url = next(line.partition("=")[2] for line in after.splitlines() if line.startswith("DATABASE_URL="))
    assert shop.server.run(f"psql -qAt '{url}' -c 'select 1'").stdout.strip() == "1"
    assert url.split(":")[2].split("@")[0] not in told.stdout + told.stderr
    address = next(line.partition("=")[2] for line in after.splitlines() if line.startswith("REDIS_URL="))
    assert shop.server.run(f"redis-cli -u '{address}' ping").stdout.strip() == "PONG"


def test_a_broken_template_goes_live(shop: Shop) -> None:
    """nginx refuses what a value made of the site: the old one is back, and nothing was reloaded."""
    before = shop.server.run("cat /etc/nginx/sites-available/pos; systemctl show -p MainPID nginx").stdout
    broken = shop.folder / "fabfile.py"
    broken.write_text(
        "from tasks import namespace\nfrom tasks.remote import files\nreal = files.render\n"
        "def render(template, stage, **more):\n"
        "    text = real(template, stage, **more)\n"
        "    return text + 'nonsense;' if template == 'nginx/site.conf' else text\n"
        "files.render = render\n"
    )
    refused = shop.fab("provision", "--yes", check=1)
    assert "nonsense" in refused.stderr
    assert shop.server.run("cat /etc/nginx/sites-available/pos; systemctl show -p MainPID nginx").stdout == before
    assert shop.server.run("nginx -t 2>&1").returncode == 0


def test_a_firewall_that_locks_us_out(shop: Shop) -> None:
    """SSH is on an odd port: it is open, what is not named is not, and the next connection comes in."""
    rules = shop.server.run("ufw status").stdout
    assert f"{PORT}/tcp" in rules
    assert "22/tcp" not in rules.replace(f"{PORT}/tcp", "")
    assert shop.fab("provision", "--check").returncode == 0
    listening = shop.server.run("ss -ltnH | awk '{print $4}'").stdout.split()
    outside = {one.rpartition(":")[2] for one in listening if not one.startswith(("127.", "[::1]"))}
    assert outside <= {str(PORT), "80"}, "something else can be reached from outside"


@pytest.mark.nightly
def test_a_host_that_left_comes_in_for_ever(shop: Shop) -> None:
    """What we let in for it is found and taken away; what somebody else let in stays."""
    toml, run = shop.folder / "releases.toml", shop.server.run
    alone = toml.read_text()
    app2 = '  { name = "app2", address = "192.0.2.7", roles = ["web"] },\n]'
    toml.write_text(alone.removesuffix("]\n") + app2 + "\n")
    shop.fab("-H", "app1", "provision", "--yes", timeout=300)
    assert "allow from 192.0.2.7 to any port 5432" in run("ufw show added").stdout
    run("ufw allow from 192.0.2.9 to any port 5432 proto tcp comment 'the accountants'; ufw allow 9999/tcp")
    assert shop.fab("-H", "app1", "provision", "--check").returncode == 0
    toml.write_text(alone)
    found = {
        one["thing"]: one["diff"] for one in json.loads(shop.fab("provision", "--check", "--json", check=1).stdout)
    }
    assert "-allow from 192.0.2.7 to any port 5432 proto tcp" in found["old rules of the firewall"]
    shop.fab("provision", "--yes", timeout=300)
    assert shop.fab("provision", "--check").returncode == 0
    rules = run("ufw show added").stdout
    assert ("192.0.2.7" in rules, "192.0.2.9" in rules, "9999/tcp" in rules) == (False, True, True)


def test_an_account_that_may_do_more_than_it_needs(shop: Shop) -> None:
    """The services' account writes no code and reads no other home; the deploying one is root for exact commands."""
    shop.fab("deploy", "--ref", "base", timeout=400)
    run = shop.server.run
    assert run("touch /srv/pos/current/manage.py /srv/pos/releases/x", user="app", check=False).returncode != 0
    assert run("ls /root /home/deploy/.ssh", user="app", check=False).returncode != 0
    for words in ("systemctl restart ssh", "cat /etc/shadow", "systemctl stop pos.service --root=/", "bash -c id"):
        assert run(f"sudo -n {words}", user="deploy", check=False).returncode != 0, words


def test_an_extension_that_only_a_superuser_may_create_is_there_after_a_restore(shop: Shop) -> None:
    shop.configure(more='[provision]\nextensions = ["file_fdw"]\n')
    drift = shop.fab("provision", "--check", check=None)
    assert drift.returncode != 0
    assert "extensions: not there" in drift.stdout
    shop.fab("provision", "--yes", timeout=300)
    assert shop.fab("provision", "--check").returncode == 0
    shop.fab("deploy", "--ref", "base", timeout=400)
    assert "would be without" not in shop.fab("backup").stderr
    assert "verified, without" not in shop.fab("drill").stderr
    shop.fab("restore-db", "--date", "latest", "--yes")
    asked = "psql -qAt -d pos -c \"select extname from pg_extension where extname = 'file_fdw'\""
    assert shop.server.run(asked, user="postgres").stdout.strip() == "file_fdw"


HALF_WAY = r"""
mkdir -p /tmp/half/DEBIAN && cd /tmp
printf 'Package: half\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n' >half/DEBIAN/control
printf '#!/bin/sh\n[ -e /tmp/powered ] || { touch /tmp/begun; sleep 100; }\n' >half/DEBIAN/postinst
chmod 755 half/DEBIAN/postinst && dpkg-deb -b half half.deb
setsid dpkg -i half.deb >/dev/null 2>&1 & while [ ! -e /tmp/begun ]; do sleep 0.1; done
kill -KILL -- -$!; touch /tmp/powered
sed -i '/^Package: logrotate$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status
truncate -s 0 /var/lib/apt/lists/*_Packages
userdel "$(getent passwd | cut -d : -f 1 | grep -m 1 '^app')"
for file in passwd shadow group; do touch -d '5 minutes ago' /etc/$file.lock; done
"""


def test_a_server_that_lost_its_power_while_packages_were_installed_is_provisioned(shop: Shop) -> None:
    """What is left: an unfinished package, a journal of dpkg, a package that must be installed again, a cut list,
    and empty locks of the accounts.
    """
    shop.server.run(HALF_WAY)
    assert "dpkg was interrupted" in shop.server.run("apt-get install -y git 2>&1", check=False).stdout
    done = shop.fab("provision", "--yes", timeout=300)
    assert "was interrupted and is finished first: dpkg half logrotate" in done.stderr
    assert shop.server.run("dpkg --audit; dpkg-query -W -f '${db:Status-Abbrev}' half logrotate").stdout == "ii ii "
    assert shop.fab("provision", "--check").returncode == 0


@pytest.mark.nightly
def test_a_provision_that_is_cut_by_the_power_at_any_moment_goes_on(boot: Boot, origin: Path, tmp_path: Path) -> None:
    shop = Shop(tmp_path, (boot("unplugged", ssh_port=PORT, bare=True),))
    shop.configure()
    for seconds in (4, 8, 2, 12):
        run = shop.start("provision", "--yes")
        deadline = time.monotonic() + 120
        while shop.server.run("pgrep -x dpkg", check=False).returncode and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(seconds)
        shop.server.power_loss()
        run.communicate(timeout=120)
        shop.server.start()
    shop.fab("provision", "--yes", timeout=600)
    fill(shop.server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)


def test_a_run_that_dies_half_way_is_never_finished(shop: Shop) -> None:
    """Killed between the file and its reload, the part counts as not in use, and the next run puts it to use."""
    shop.server.run("mkdir -p /var/lib/fab-releases/begun && touch /var/lib/fab-releases/begun/nginx")
    named = json.loads(shop.fab("provision", "--check", "--json", check=1).stdout)
    assert [one["thing"] for one in named] == ["nginx in use"]
    shop.fab("provision", "--yes")
    assert shop.fab("provision", "--check").returncode == 0


OLD = """
usermod -aG www-data app && gpasswd -d www-data app && chgrp -R www-data /srv/pos/shared/media
chmod 2775 /srv/pos/shared/media && chmod 755 /srv/pos /srv/pos/shared && rm -r /var/lib/fab-releases/stages
sed -i s/SocketGroup=app/SocketGroup=www-data/ /etc/systemd/system/pos-web@.socket && systemctl daemon-reload
systemctl restart 'pos-web@*.socket' nginx
"""
"""As servers were made before: the application in the web server's group, and that group's all that it shares."""

WATCH = """
while sleep 0.03; do
  for path in healthz media/a/receipt.txt; do
    curl -s -o /dev/null -m 20 -w '%{http_code}\\n' -H 'Host: pos.test' http://127.0.0.1/$path
  done
done >/root/answers
"""


def test_a_server_whose_application_is_in_the_group_of_the_web_server_is_put_right(shop: Shop) -> None:
    """Its account is kept where releases.toml names none; nothing that users sent is lost, and no page of it."""
    shop.fab("deploy", "--ref", "base", timeout=400)
    shop.server.put("/srv/pos/shared/media/a/receipt.txt", "thank you", mode=0o660, owner="app:www-data")
    shop.server.run("chown -R app:www-data /srv/pos/shared/media && chmod 2770 /srv/pos/shared/media/a")
    shop.server.run(OLD)
    await_page(shop)
    path = shop.folder / "releases.toml"
    path.write_text(path.read_text().replace('app_user = "app"\n', ""))
    checked = shop.fab("provision", "--check", check=1)
    assert "www-data in group app" in checked.stdout
    assert "nobody of ours in group www-data" in checked.stdout
    assert 'add app_user = "app" to releases.toml' in checked.stderr
    shop.server.put("/root/watch", WATCH)
    shop.server.run("systemd-run --quiet --unit watch bash /root/watch")
    shop.fab("provision", "--yes", timeout=300)
    shop.server.run("systemctl stop watch")
    answers = shop.server.run("cat /root/answers").stdout.split()
    assert len(answers) > 20
    assert set(answers) == {"200"}
    assert shop.server.run("id -nG app").stdout.split() == ["app", "env-app"]
    found = shop.server.run("cd /srv/pos/shared && stat -c '%U:%G %a %n' media media/a media/a/receipt.txt").stdout
    assert found.split("\n")[:3] == ["app:app 2770 media", "app:app 2770 media/a", "app:app 660 media/a/receipt.txt"]
    assert "nothing to do" in shop.fab("provision", "--yes").stderr
    shop.fab("deploy", "--ref", "code-only", timeout=400)
    assert shop.get("/media/a/receipt.txt") == "thank you"
