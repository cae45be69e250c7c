"""What an attacker, a curious neighbour or a slip of the pen could reach on a server that `fab provision` set up."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

from tests.conftest import Boot
from tests.process_list import process_list
from tests.servers import Server, Snapshot
from tests.servers.server import client_key
from tests.servers.shop import ROOT, Shop, fill

from .conftest import await_page, nightly
from .looking import await_that, edit, said, sell, sku, sql

pytestmark = pytest.mark.server
PORT = 7822
TOKEN = "canary-of-a-header"
ON_REQUEST = f'[health.headers]\nX-Token = "{TOKEN}"\n[provision]\nssh = true\n'
DROP_IN = "/etc/ssh/sshd_config.d/10-fab-releases.conf"
ID = "20260101-000000-0123456"


@dataclass(frozen=True)
class Safe:
    """A server provisioned with everything on, a release live on it, and what could be seen while that was made."""

    shop: Shop
    snapshot: Snapshot
    programs: frozenset[str]
    output: str


@pytest.fixture(scope="module")
def safe(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Safe]:
    server = boot("safe", ssh_port=PORT, bare=True)
    # As Debian comes: with a host key of each kind.
    server.run("sed -i '/^HostKey/d' /etc/ssh/sshd_config.d/tests.conf && ssh-keygen -A && systemctl reload ssh")
    shop = Shop(tmp_path_factory.mktemp("safe"), (server,))
    shop.configure(ON_REQUEST)
    with process_list() as seen:
        done = shop.fab("provision", "--yes", timeout=600)
        fill(server, origin)
        deployed = shop.fab("deploy", "--ref", "base", timeout=400)
    output = "".join((done.stdout, done.stderr, deployed.stdout, deployed.stderr))
    yield Safe(shop, server.snapshot(), frozenset(seen), output)
    server.power_loss()


@pytest.fixture
def shop(safe: Safe) -> Shop:
    """As it was when the first release had gone live."""
    safe.shop.server.reset(safe.snapshot)
    safe.shop.configure(ON_REQUEST)
    await_page(safe.shop)
    return safe.shop


@pytest.fixture
def server(safe: Safe) -> Server:
    """Only looked at."""
    safe.shop.server.start()
    await_page(safe.shop)
    return safe.shop.server


def refused(server: Server, command: str, user: str = "app") -> bool:
    return server.run(command, user=user, check=False).returncode != 0


def values(server: Server) -> dict[str, str]:
    lines = server.run("cat /srv/pos/shared/.env.production").stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# --- services ---


def scores(server: Server) -> dict[str, float]:
    """Unit -> exposure (0 best, 10 worst), as systemd itself judges what is loaded."""
    found = {}
    for name in ("web", "worker", "beat", "backup"):
        units = server.run(f"systemctl list-units --plain --no-legend --full 'pos-{name}[@.]*service' | cut -d' ' -f1")
        unit = units.stdout.split()[0] if units.stdout.split() else f"pos-{name}.service"
        told = server.run(f"systemd-analyze security --no-pager {unit} 2>/dev/null | tail -n 1").stdout
        found[name] = float(re.findall(r": (\d+\.\d) ", told)[0])
    return found


FORBIDDEN = {
    "write code": "open('/srv/pos/current/manage.py', 'a')",
    "write in /etc": "open('/etc/evil', 'w')",
    "look into a home": "os.listdir('/home/deploy')",
    "look into root's home": "os.listdir('/root')",
    "read raw devices": "open('/dev/kmsg')",
    "speak netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "speak to the wire": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "make a name space": "libc(libc.unshare(0x10000000))",
    "mount": "libc(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None))",
    "look into process 1": "libc(libc.ptrace(16, 1, None, None))",
    "make a program of another user": "(open('/tmp/x', 'w'), os.chmod('/tmp/x', 0o4755))",
    "give a file away": "(open('/tmp/y', 'w'), os.chown('/tmp/y', 0, 0))",
    "become root": "os.setuid(0)",
    "see other processes": "os.stat('/proc/1')",
}
PROBE = """
import ctypes, os, socket
class Libc:
    def __getattr__(self, name): return getattr(ctypes.CDLL(None, use_errno=True), name)
    def __call__(self, answer):
        if answer < 0: raise OSError(ctypes.get_errno(), "refused")
libc = Libc()
for what, how in %r.items():
    try:
        eval(how)
    except OSError:
        print("refused", what)
    else:
        print("ALLOWED", what)
"""


def test_a_service_that_was_broken_into_takes_the_server(server: Server) -> None:
    """In the very sandbox of the units each of these fails."""
    unit = server.run("cat /etc/systemd/system/pos-beat.service").stdout
    sandbox = unit[unit.index("NoNewPrivileges=") :]
    server.put("/srv/pos/probe.py", PROBE % FORBIDDEN)
    lines = "[Service]\nType=oneshot\nUser=app\nStandardOutput=truncate:/srv/probed\n"
    server.put("/run/systemd/system/probe.service", f"{lines}ExecStart=/usr/bin/python3 /srv/pos/probe.py\n{sandbox}")
    server.run("systemctl daemon-reload && systemctl start probe.service")
    assert sorted(server.run("cat /srv/probed").stdout.splitlines()) == sorted(f"refused {what}" for what in FORBIDDEN)
    server.run("rm /run/systemd/system/probe.service /srv/pos/probe.py && systemctl daemon-reload")


def test_units_become_laxer_unnoticed(safe: Safe, server: Server) -> None:
    for unit in ("pos-web@", "pos-worker@", "pos-beat"):
        assert f"{unit}.service is exposed 1.2 of 10" in safe.output
    found = scores(server)
    print(found)
    assert all(score <= 1.2 for score in found.values()), found


def drop_in() -> str:
    """What docs/how-to/harden-a-server.md recommends."""
    page = (ROOT / "docs/how-to/harden-a-server.md").read_text()
    return page[page.index("```ini\n") + 7 :].split("```")[0]


@pytest.mark.nightly
def test_a_hardened_unit_stops_the_application(shop: Shop) -> None:
    """With the lines of the page: a deploy, a photo, a sale, a task, a beat, a restart, a backup, the way back."""
    server, before = shop.server, shop.current()
    for unit in ("pos-web@", "pos-worker@", "pos-beat"):
        server.put(f"/etc/systemd/system/{unit}.service.d/ours.conf", drop_in())
    server.run("systemctl daemon-reload && echo POS_BEAT_SECONDS=2 >> /srv/pos/shared/.env.production")
    shop.fab("deploy", "--ref", "code-only")
    after = shop.current()
    found = scores(server)
    print(found)
    assert all(found[name] <= 1.0 for name in ("web", "worker", "beat")), found
    live(shop, after)
    server.run("systemctl restart pos-web@*.service pos-worker@*.service pos-beat.service")
    await_page(shop)
    live(shop, after)
    server.run("systemctl start pos-backup.service && ls /srv/pos/backups/database/*.dump")
    shop.fab("rollback", "--yes")
    assert shop.current() == before
    live(shop, before)


def live(shop: Shop, release: str) -> None:
    """Everything the example does is done by this release."""
    server = shop.server
    ask = "curl -s -m 20 -H 'Host: pos.test' http://127.0.0.1"
    assert json.loads(shop.get())["release"] == release
    assert sell(shop, f"till-{release}-{time.monotonic_ns()}") == 201
    server.put("/tmp/cake.png", b"a photo")
    photo = server.run(f"{ask}/api/products/{sku(shop)}/ -X PATCH -F photo=@/tmp/cake.png").stdout
    path = re.search(r"/media/products/[^\"]+", photo)
    assert path, photo
    assert server.run(f"{ask}{path[0]}").stdout == "a photo"
    asked = json.loads(server.run(f"{ask}/api/reports/ -H 'Content-Type: application/json' -d '{{}}'").stdout)
    done = f"select release from reports_report where id = {asked['id']}"
    await_that(lambda: sql(shop, done).strip() == release, lambda: f"no report of {release}")
    ticked = f"select count(*) from reports_heartbeat where release = '{release}' and at > now() - interval '10 s'"
    await_that(lambda: int(sql(shop, ticked)) > 0, lambda: f"no heartbeat of {release}")


# --- accounts ---

OWN = "/usr/local/lib/fab-releases/pos-systemctl"
HOSTILE = (
    f"{OWN} restart ssh",
    f"{OWN} start pos.service ssh.service",
    "/tmp/pos-systemctl start pos.service",
    "systemctl start pos.service",
    "sh -c id",
    "-u postgres psql -c 'select 1'",
    "journalctl -u pos.service",
    f"LD_PRELOAD=/tmp/evil.so {OWN} start pos.service",
    f"PYTHONPATH=/tmp PYTHONSTARTUP=/tmp/x {OWN} start pos.service",
    f"--preserve-env {OWN} start pos.service",
    "-e /etc/passwd",
)
"""The words themselves are tests/unit/server/test_systemctl.py's; here sudo and the program are whole."""


def test_the_account_that_deploys_does_not_become_root(server: Server) -> None:
    server.run(f"sudo -n {OWN} start pos.service", user="deploy")
    let_through = [words for words in HOSTILE if not refused(server, f"sudo -n {words}", "deploy")]
    assert not let_through
    for path in (OWN, f"{OWN}.json"):
        assert server.run(f"stat -c %U:%G {path}").stdout == "root:root\n"
        assert refused(server, f"echo x >>{path}", "deploy")
    assert server.run("visudo -c").returncode == 0


def test_the_sudo_rules_have_no_pattern_that_old_or_new_sudo_reads_otherwise(server: Server) -> None:
    """sudo before 1.9.10 takes a regular expression for a word, and sudo-rs refuses one: both know plain paths."""
    rules = server.run("cat /etc/sudoers.d/pos").stdout
    lines = [line for line in rules.splitlines() if line and not line.startswith("#")]
    assert lines
    plain = re.compile(r"[a-z0-9-]+ ALL=\((root|postgres)\) NOPASSWD: (/[A-Za-z0-9._-]+)+( \"\"|( [A-Za-z0-9._-]+)*)")
    assert [line for line in lines if not plain.fullmatch(line)] == []


@pytest.mark.nightly
def test_a_broken_sudoers_file_shuts_everybody_out_of_root(shop: Shop) -> None:
    """visudo refuses it before sudo can read it; the rules that were there stay."""
    before = shop.server.run("cat /etc/sudoers.d/pos").stdout
    (shop.folder / "fabfile.py").write_text(changed("sudoers", "deploy ALL=(root NOPASSWD: oops"))
    told = shop.fab("provision", "--yes", check=1)
    assert "visudo" in said(told)
    assert shop.server.run("cat /etc/sudoers.d/pos").stdout == before
    assert shop.server.run("sudo -n true && visudo -c").returncode == 0


def changed(template: str, line: str) -> str:
    """A fabfile with which a template says one line more."""
    return (
        "from tasks import namespace\nfrom tasks.remote import files\nreal = files.render\n"
        "def render(template, stage, **more):\n"
        "    text = real(template, stage, **more)\n"
        f"    return text + {line + chr(10)!r} if template == {template!r} else text\n"
        "files.render = render\n"
    )


def test_services_write_code_or_read_another_applications_secrets(server: Server) -> None:
    server.run(
        "useradd --system --user-group other; install -d -o other -g other -m 755 /srv/other/shared; "
        "install -o deploy -g other -m 640 /dev/null /srv/other/shared/.env.production"
    )
    for path in ("current/manage.py", "current/.release/launch.py", "releases/x", "shared/.env.production", "x"):
        assert refused(server, f"touch /srv/pos/{path}"), path
    for folder in ("/etc/cron.d", "/etc/systemd/system", "/usr/local/bin", "/srv/pos/environments"):
        assert refused(server, f"touch {folder}/x"), folder
    for path in ("/srv/other/shared/.env.production", "/etc/shadow", "/home/deploy/.ssh/authorized_keys"):
        assert refused(server, f"cat {path}"), path
    assert refused(server, "cat /srv/pos/shared/.env.production", "other"), "somebody else's variables"
    assert refused(server, "cat /srv/pos/shared/.env.production", "www-data"), "nginx reads variables"
    running = server.run("systemctl show -p MainPID --value pos-beat.service").stdout.strip()
    assert refused(server, f"cat /proc/{running}/environ", "other"), "variables of a process"
    assert not server.run("ls /srv/pos/backups", user="app", check=False).stdout


def test_a_link_that_an_application_plants_leads_the_web_server_nowhere(shop: Shop) -> None:
    """nginx reads what belongs to every application of the server: one of them must not make it hand that out."""
    server, secret = shop.server, "canary-of-another-application"
    server.run(
        "useradd --system --user-group other && usermod -aG other www-data && systemctl restart nginx && "
        f"install -d -o other -g other -m 750 /srv/other && echo {secret} >/srv/other/secret && "
        "chown other:other /srv/other/secret && chmod 640 /srv/other/secret && "
        "runuser -u www-data cat /srv/other/secret"
    )
    plant = "ln -s /srv/other/secret {0}/file && ln -s /srv/other {0}/folder && ln -s ../.env.production {0}/variables"
    server.run(f"cd /srv/pos/shared/media && {plant.format('.')} && echo fine >fine", user="app")
    server.run(f"cd /srv/pos/shared/static && {plant.format('.')} && echo fine >fine && ln -s fine link", user="deploy")
    await_page(shop)
    for where in ("media", "static"):
        for name in ("file", "folder/secret", "variables"):
            answer = shop.get(f"/{where}/{name}")
            assert secret not in answer, f"{where}/{name}"
            assert "SECRET_KEY" not in answer, f"{where}/{name}"
        assert shop.get(f"/{where}/fine") == "fine\n"
    assert shop.get("/static/link") == "fine\n", "a link of its own"
    style = re.search(r"/static/pos/site\.[0-9a-f]+\.css", shop.get("/"))
    assert style
    assert "{" in shop.get(style[0]), "what the live release has"
    server.run("ln -s /srv/other/secret /srv/pos/shared/maintenance.html", user="deploy")
    try:
        assert secret not in shop.get("/")
    finally:
        server.run("rm /srv/pos/shared/maintenance.html")


def test_nobody_but_who_deploys_can_hold_the_locks_of_a_deploy(shop: Shop) -> None:
    server = shop.server
    server.run("chmod 644 /srv/pos/.releases/lock")
    shop.fab("provision", "--yes", timeout=600)
    held = server.run("ls /srv/pos/.releases/lock /run/fab-releases/*.lock").stdout.split()
    assert len(held) == 2
    for account in ("app", "www-data", "nobody"):
        for path in held:
            assert refused(server, f"flock -n -s {path} true", account), f"{account} {path}"
    for path in held:
        server.run(f"flock -n -s {path} true", user="deploy")


def test_the_databases_user_becomes_the_server(server: Server) -> None:
    url = values(server)["DATABASE_URL"]
    for query in (
        "copy (select 1) to program 'id'",
        "select pg_read_file('/etc/passwd')",
        "select lo_import('/etc/passwd')",
        "create role evil",
        "alter role pos superuser",
        "alter system set log_statement = 'all'",
        "create extension file_fdw",
        "select rolpassword from pg_authid",
    ):
        assert refused(server, f'psql -XAtq "{url}" -c "{query}"'), query
    assert server.run(f'psql -XAtq "{url}" -c "select 1"').stdout == "1\n"
    assert refused(server, "PGPASSWORD=wrong psql -XAtq -h 127.0.0.1 -U pos pos -c 'select 1'"), "any password"


def test_redis_serves_a_stranger(server: Server) -> None:
    assert "NOAUTH" in server.run("redis-cli ping", check=False).stdout
    url = values(server)["REDIS_URL"]
    for command in ("config get dir", "flushall", "acl list", "keys '*'", "shutdown"):
        assert "NOPERM" in server.run(f"redis-cli -u '{url}' {command} 2>&1", check=False).stdout, command
    assert "PONG" in server.run(f"redis-cli -u '{url}' ping").stdout


# --- files, ports, secrets ---


def test_files_that_anybody_may_change(server: Server) -> None:
    places = "/srv /etc /usr /var/lib/fab-releases /opt /var/www"
    loose = f"find {places} -xdev ! -type l -perm /o+w ! -type s 2>/dev/null || true"
    assert server.run(loose).stdout == ""
    foreign = "find /srv/pos -xdev ! -user deploy ! -user app 2>/dev/null; find /etc -xdev -user deploy -o -user app"
    assert server.run(foreign, check=False).stdout == ""
    app = "find /srv/pos -xdev -user app ! -path '/srv/pos/shared/media*'"
    assert server.run(app).stdout == "", "the services own something besides their uploads"
    assert server.run("find / -xdev \\( -nouser -o -nogroup \\) 2>/dev/null || true").stdout == ""


def test_a_program_that_runs_as_root_came_with_us(server: Server) -> None:
    """Every setuid or setgid file is one of a Debian package."""
    found = server.run("find / -xdev -type f -perm /6000 2>/dev/null || true").stdout.split()
    assert found
    # where /bin is /usr/bin, packages of Debian 12 name either
    owned = [
        path for path in found if not refused(server, f"dpkg -S {path} || dpkg -S {path.removeprefix('/usr')}", "root")
    ]
    assert owned == found


def test_ports_that_are_open_from_outside(server: Server) -> None:
    """1 to 10000, from another machine; and what is behind the firewall, should somebody switch it off."""
    assert asyncio.run(open_ports(server.address, range(1, 10_001))) == {PORT, 80}
    server.run("ufw --force disable")
    behind = asyncio.run(open_ports(server.address, range(1, 10_001)))
    server.run("ufw --force enable")
    assert behind == {PORT, 80}


async def open_ports(address: str, ports: range) -> set[int]:
    many = asyncio.Semaphore(1000)

    async def connects(port: int) -> int | None:
        async with many:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 1)
            except (OSError, TimeoutError):
                return None
            writer.close()
            return port

    return {port for port in await asyncio.gather(*map(connects, ports)) if port}


def test_a_visitor_writes_nothing_on_the_screen_of_whoever_reads_the_log(safe: Safe, server: Server) -> None:
    """A file name that does not exist is quoted whole in nginx's error log, and so is the page one came from."""
    hostile = b"/static/\x1b]52;c;eA==\x07none"
    referer = b"\x1b]52;c;eA==\x07\xe2\x80\xae::error::x"
    asked = b"GET %s HTTP/1.1\r\nHost: pos.test\r\nReferer: " + referer + b"\r\nConnection: close\r\n\r\n"
    for path in (b"/healthz", hostile, b"/static/%1B%5D52;c;eA==%07none", b"/media/%1B%5B2J%C2%9B2J"):
        with socket.create_connection((server.address, 80), timeout=20) as visitor:
            visitor.sendall(asked % path)
            while visitor.recv(65536):
                pass
    seen = safe.shop.fab("logs", "--service", "nginx", environment={"GITHUB_ACTIONS": "true"}).stdout
    assert "52;c;eA==" in seen, "the visit is in the log"
    assert not set(seen) & set("\x1b\x07\x9b\u202e")
    assert not re.search(r"(?m)^\s*::", seen)


def test_secrets_that_somebody_could_have_seen(safe: Safe, server: Server) -> None:
    """Neither in a process list, while they were made and used, nor in a journal, a log or what was printed."""
    assert any("psql" in words for words in safe.programs), "the process list was looked at"
    assert any("gunicorn" in words for words in safe.programs)
    found = values(server)
    secrets = {
        found["SECRET_KEY"],
        *(re.findall(r":([^:@/]+)@", found[name])[0] for name in ("DATABASE_URL", "REDIS_URL")),
    }
    assert len(secrets) == 3
    server.put("/root/secrets", "\n".join(secrets), 0o600)
    told = server.run("journalctl --no-pager -a; cat /var/log/*.log /var/log/*/*.log", check=False).stdout
    local = "".join(path.read_text(errors="replace") for path in safe.shop.folder.rglob("*") if path.is_file())
    for secret in secrets:
        assert not [words for words in safe.programs if secret in words], "in a process list"
        assert secret not in safe.output + told + local
    assert not [words for words in safe.programs if TOKEN in words], "the health check's header in a process list"
    assert TOKEN not in safe.output + told
    where = server.run(
        "grep -rlsF -f /root/secrets /etc /srv /var/lib/fab-releases /tmp /var/tmp /home /root", check=False
    )
    assert set(where.stdout.split()) <= {"/srv/pos/shared/.env.production", "/root/secrets"}
    server.run("rm /root/secrets")


# --- what is said to the outside ---


def test_ssh_speaks_something_outdated(safe: Safe, server: Server, tmp_path: Path) -> None:
    words = [uv.find_uv_bin(), "tool", "run", "--from", "ssh-audit==3.3.0", "ssh-audit", "--json", "--skip-rate-test"]
    done = subprocess.run(
        [*words, "-p", str(PORT), server.address], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    found = json.loads(done.stdout)
    kinds = ("kex", "key", "enc", "mac")
    faults = [(one["algorithm"], one["notes"]) for kind in kinds for one in found[kind]]
    assert {one["algorithm"] for one in found["key"]} >= {"ssh-ed25519", "rsa-sha2-512"}
    assert not [one for one in faults if set(one[1]) & {"fail", "warn"}]


def test_nginx_passes_on_what_it_should_not(server: Server, tmp_path: Path) -> None:
    dump = tmp_path / "nginx.conf"
    dump.write_text(server.run("nginx -T 2>/dev/null").stdout)
    words = [uv.find_uv_bin(), "tool", "run", "--from", "gixy-ng==0.2.59", "gixy", "--format", "json"]
    skips = ["--skips", "try_files_is_evil_too"]  # it asks for a cache that serves files of the release before
    done = subprocess.run([*words, *skips, str(dump)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert json.loads(done.stdout) == [], done.stderr


def test_ssh_lets_in_by_a_password_or_tunnels(safe: Safe, server: Server) -> None:
    server.run("echo deploy:guessed | chpasswd")
    by_password = [*server.ssh("deploy")[:-1], "-oPubkeyAuthentication=no", "-v", f"deploy@{server.address}", "true"]
    told = subprocess.run(by_password, capture_output=True, text=True, timeout=60)
    assert told.returncode != 0
    assert re.findall(r"Authentications that can continue: (.*)", told.stderr) == ["publickey"]
    through = [*server.ssh("deploy")[:-1], "-W", "127.0.0.1:5432", f"deploy@{server.address}"]
    tunnel = subprocess.run(through, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert "administratively prohibited" in tunnel.stderr


# --- what may shut us out ---


def comes_in(server: Server) -> bool:
    *words, who = server.ssh("root")
    return subprocess.run([*words, "-oConnectTimeout=5", who, "true"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.nightly
def test_hardening_ssh_shuts_us_out(shop: Shop) -> None:
    """sshd accepts the file, and it lets nobody in: the one before is back before fab says so."""
    server, before = shop.server, shop.server.run(f"cat {DROP_IN}").stdout
    (shop.folder / "fabfile.py").write_text(changed("sshd.conf", "DenyUsers root"))
    told = shop.fab("provision", "--yes", check=1)
    assert "a second connection did not come in" in said(told)
    assert server.run(f"cat {DROP_IN}").stdout == before
    await_that(lambda: comes_in(server), lambda: "root is not let in")
    assert "ssh in use" in said(shop.fab("provision", "--check", check=1)), "what was undone counts as done"
    shop.configure(ON_REQUEST)
    shop.fab("provision", "--yes")
    shop.fab("provision", "--check")


@pytest.mark.nightly
def test_hardening_ssh_shuts_us_out_and_our_machine_dies(shop: Shop) -> None:
    """Nobody is there to take it back: the server does, by itself."""
    server, before = shop.server, shop.server.run(f"cat {DROP_IN}").stdout
    dies = "import os\nfrom tasks import provision\nprovision.prove_the_way_in = lambda *_: os._exit(9)\n"
    sooner = (
        "from tasks.remote import library\nreal_library = library.library\n"
        "def soon(folder='server'):\n    return real_library(folder).replace('UNDO_AFTER=60', 'UNDO_AFTER=5')\n"
        "library.library = soon\n"
    )
    (shop.folder / "fabfile.py").write_text(changed("sshd.conf", "DenyUsers root") + sooner + dies)
    shop.fab("provision", "--yes", check=9)
    await_that(lambda: server.run(f"cat {DROP_IN}").stdout == before, lambda: "it is never undone")
    await_that(lambda: comes_in(server), lambda: "root is not let in")


DIES = r"""
import os
from tasks import namespace, provision
from tasks.remote import library
provision.prove_the_way_in = lambda *_: os._exit(9)
real_library = library.library
def other(folder="server"):
    text = real_library(folder).replace("UNDO_AFTER=60", "UNDO_AFTER=6000")
    return text.replace("\n  ufw --force enable >/dev/null", "\n  ufw prepend deny from 10.0.0.0/8; ufw --force enable")
library.library = other
"""
"""Our machine dies when the firewall shuts our port, and no timer comes in time."""


@pytest.mark.parametrize("before", ["on", *nightly("off")])
def test_the_server_starts_anew_with_a_firewall_that_locks_us_out(shop: Shop, before: str) -> None:
    """Nobody proved that anybody comes in: it starts with the one it had before."""
    server = shop.server
    if before == "on":
        shop.configure(f"{ON_REQUEST}allow = [9000]\n")
    else:
        server.run("ufw --force disable")
    (shop.folder / "fabfile.py").write_text(DIES)
    shop.fab("provision", "--yes", check=9)
    assert not comes_in(server), "this test shuts nobody out"
    server.power_loss()
    server.start()
    assert comes_in(server)
    rules = server.run("ufw status; ufw show added").stdout
    assert ("Status: active" in rules, "7822" in rules) == (before == "on", True)
    assert ("9000" in rules, "deny" in rules) == (False, False)
    assert "firewall" in said(shop.fab("provision", "--check", check=1)), "what was undone counts as done"
    shop.configure(ON_REQUEST)
    shop.fab("provision", "--yes")
    shop.fab("provision", "--check")
    assert (
        server.run("ls /etc/systemd/system /var/lib/fab-releases | grep -E 'undo|before|unproven' || true").stdout == ""
    )


@pytest.mark.nightly
def test_the_server_starts_anew_with_an_sshd_that_lets_nobody_in(shop: Shop) -> None:
    server, before = shop.server, shop.server.run(f"cat {DROP_IN}").stdout
    (shop.folder / "fabfile.py").write_text(changed("sshd.conf", "DenyUsers root") + DIES)
    shop.fab("provision", "--yes", check=9)
    assert not comes_in(server), "this test shuts nobody out"
    server.reboot()
    assert comes_in(server)
    assert server.run(f"cat {DROP_IN}").stdout == before
    assert "ssh in use" in said(shop.fab("provision", "--check", check=1)), "what was undone counts as done"


@pytest.mark.nightly
def test_a_key_named_by_hand_is_forgotten_when_the_way_in_is_proven(shop: Shop) -> None:
    """`fab -i KEY`: the second connection comes in with it as the first one did."""
    shop.server.run("ufw --force disable")
    edit(shop, (f', identity = "{client_key()}"', ""))
    told = shop.fab("-i", str(client_key()), "provision", "--yes")
    assert "a second connection came in" in said(told)
    assert "Status: active" in shop.server.run("ufw status").stdout


@pytest.mark.nightly
def test_a_file_that_sshd_refuses_goes_live(shop: Shop) -> None:
    server, before = shop.server, shop.server.run(f"cat {DROP_IN}; systemctl show -p MainPID ssh").stdout
    (shop.folder / "fabfile.py").write_text(changed("sshd.conf", "PermitNonsense yes"))
    told = shop.fab("provision", "--yes", check=1)
    assert "refused by sshd" in said(told)
    assert "PermitNonsense" in said(told)
    assert server.run(f"cat {DROP_IN}; systemctl show -p MainPID ssh").stdout == before
    assert comes_in(server)


@pytest.mark.nightly
def test_another_file_overrules_ours(shop: Shop) -> None:
    shop.server.put("/etc/ssh/sshd_config.d/05-cloud.conf", "PasswordAuthentication yes\n")
    named = json.loads(shop.fab("provision", "--check", "--json", check=1).stdout)
    assert [one["thing"] for one in named] == ["settings of sshd"]
    assert "-passwordauthentication yes  # /etc/ssh/sshd_config.d/05-cloud.conf" in named[0]["diff"]
    shown = shop.fab("provision", "--check", check=1).stdout
    assert shown.endswith("- is there now, + is what releases.toml says: fab provision makes it so\n")


# --- other systems ---


@pytest.mark.parametrize("system", ['ID=fedora\nVERSION_ID="41"\n', 'ID=debian\nVERSION_ID="11"\n', "NAME=Nobody\n"])
def test_a_system_it_does_not_know_is_changed(safe: Safe, server: Server, system: str) -> None:
    """Refused with code 4, which systems it knows, and nothing touched."""
    os_release = server.run("cat /etc/os-release").stdout
    before = server.run("ls -l --time-style=full-iso /etc /etc/ssh/sshd_config.d /var/lib/fab-releases").stdout
    server.run("cat > /usr/lib/os-release", input=system)
    try:
        told = said(safe.shop.fab("provision", "--yes", check=4))
    finally:
        server.run("cat > /usr/lib/os-release", input=os_release)
    assert "this is made for debian 12, debian 13" in told
    assert "nothing was touched" in told
    assert server.run("ls -l --time-style=full-iso /etc /etc/ssh/sshd_config.d /var/lib/fab-releases").stdout == before
