"""The servers under the other tests are what they say: booted, cut, crashed, reset and gone."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Server, faults
from tests.servers.server import one_cleaner

pytestmark = pytest.mark.server

REQUIREMENTS = """\
asgiref==3.8.1 \\
    --hash=sha256:3e1e3ecc849832fe52ccf2cb6686b7a55f82bb1d6aee72a58826471390335e47 \\
    --hash=sha256:c343bd80a0bec947a9860adb4c432ffa7db769836c64238fc34bdc3fec84d590
"""


@pytest.fixture
def web(boot: Callable[..., Server]) -> Server:
    """Shared: whoever changes something puts it back, or asks for `fresh`."""
    return boot("harness-web", ssh_port=7822)


@pytest.fixture
def fresh(web: Server) -> Server:
    web.reset(web.pristine)
    return web


def over_ssh(server: Server, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*server.ssh(), command], capture_output=True, text=True, timeout=60)


def traces(text: str) -> list[str]:
    """Whatever on this machine still bears a server's name."""
    commands = (["ip", "netns"], ["ip", "-brief", "link"], ["mount"], ["ps", "-ww", "-eo", "args"], ["iptables-save"])
    seen = [line for command in commands for line in subprocess.check_output(command, text=True).splitlines()]
    seen += [str(path) for path in Path("/sys/fs/cgroup").glob("*fab-releases*")]
    seen += [str(path) for path in Path("/sys/fs/cgroup").glob("*/fab-releases*")]
    whole = re.compile(rf"{re.escape(text)}(?![0-9A-Za-z])")  # fab-releases-6 is not a sandbox's fab-releases-6ab1
    return [line for line in seen if whole.search(line)]


def test_a_server_that_is_not_the_real_thing(web: Server) -> None:
    """systemd, PostgreSQL, Redis and nginx run; deploy logs in on the odd port; app cannot."""
    web.settle()
    units = "postgresql@15-main redis-server nginx ssh"
    assert web.run(f"systemctl is-active {units}").stdout.split() == ["active"] * 4
    assert web.run("systemctl is-system-running").stdout.strip() == "running"
    assert over_ssh(web, "id --user --name").stdout.strip() == "deploy"
    assert web.run("stat --format=%a /etc/ssh/ssh_host_ed25519_key").stdout.strip() == "600"
    assert web.run("runuser --login app --command=true", check=False).returncode != 0


def test_a_failing_command_that_looks_well(web: Server) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        web.run("echo why >&2; exit 3")
    assert "why" in failed.value.__notes__[0]
    with pytest.raises(subprocess.TimeoutExpired):
        web.run("sleep 1234", timeout=1)
    assert web.run("pgrep --full 'sleep 123[4]'", check=False).returncode == 1


def test_a_file_that_others_can_read(web: Server) -> None:
    web.put("/opt/new/secret", b"\x00\xff", 0o600, "deploy:www-data")
    assert web.run("stat --format='%a %U %G %s' /opt/new/secret").stdout.strip() == "600 deploy www-data 2"


def test_servers_that_do_not_see_each_other(web: Server, boot: Callable[..., Server]) -> None:
    """Nor take each other's services for their own: one stops nginx, the other's goes on."""
    other = boot("harness-other")
    other.settle()
    for here, there in ((web, other), (other, web)):
        here.run(f"read -r banner < /dev/tcp/{there.address}/{there.ssh_port} && [[ $banner == SSH-* ]]")
    with faults.stopped(web, "nginx"):
        assert other.run("systemctl is-active nginx").stdout.strip() == "active"
    other.close()


def test_a_reset_that_leaves_something_behind(fresh: Server) -> None:
    fresh.put("/srv/kept", "kept")
    snapshot = fresh.snapshot()
    fresh.put("/srv/late", "late")
    fresh.run("rm /srv/kept; echo 127.0.0.9 elsewhere >> /etc/hosts")
    fresh.reset()
    assert fresh.run("ls /srv; grep --count elsewhere /etc/hosts", check=False).stdout.split() == ["kept", "0"]
    fresh.reset(fresh.pristine)
    assert fresh.run("ls /srv").stdout == ""
    fresh.reset(snapshot)
    assert fresh.run("ls /srv").stdout.split() == ["kept"]


def test_a_power_loss_that_asks_first(fresh: Server) -> None:
    """A command under way hears nothing, what was synced is there, the services come up again."""
    fresh.run("echo synced > /srv/file && sync --file-system /srv")
    waiting = subprocess.Popen([*fresh.ssh(), "sleep 1234"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while fresh.run("pgrep --full 'sleep 123[4]'", check=False).returncode != 0:
        time.sleep(0.05)
    fresh.power_loss()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=1)
    waiting.kill()
    waiting.communicate()
    assert not fresh.is_up
    fresh.start()
    assert fresh.run("cat /srv/file").stdout == "synced\n"
    fresh.settle()
    assert fresh.run("systemctl is-active postgresql@15-main").stdout.strip() == "active"


def test_a_reboot_that_does_not_come_back(web: Server) -> None:
    web.run("nft add table inet firewall")
    assert "firewall" in web.run("nft list tables").stdout
    web.reboot()
    assert over_ssh(web, "true").returncode == 0
    assert web.run("nft list tables").stdout == ""
    web.poweroff()
    assert not web.is_up
    web.start()


def test_a_host_key_that_changed_unseen(web: Server) -> None:
    pinned = web.ssh()
    old = web.known_hosts
    web.new_host_key()
    assert web.known_hosts != old
    (web.folder / "known_hosts").write_text(old)
    refused = subprocess.run([*pinned, "true"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 255
    assert "HAS CHANGED" in refused.stderr
    assert over_ssh(web, "true").returncode == 0


@pytest.mark.parametrize("how", ["down", "drop"])
def test_a_cut_that_does_not_cut(web: Server, how: str) -> None:
    options = ["-oServerAliveInterval=1", "-oServerAliveCountMax=2"]
    command = [*web.ssh()[:1], *options, *web.ssh()[1:], "echo begun; sleep 30; echo ended"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "begun\n"
        with faults.cut_link(web, how):  # type: ignore[arg-type]
            assert session.wait(timeout=25) == 255
            assert session.stdout.read() == ""
    assert over_ssh(web, "true").returncode == 0
    assert "default" in web.run("ip route").stdout


def test_a_full_disk_with_room_left(web: Server) -> None:
    web.run("mkdir --parents /srv/pos/releases && echo old > /srv/pos/releases/1")
    with faults.full_disk(web, "/srv/pos", free_kib=64):
        assert "No space left" in web.run("head --bytes=1M /dev/zero > /srv/pos/big", check=False).stderr
        web.run("rm /srv/pos/big; mv /srv/pos/releases/1 /srv/pos/releases/2")
    with faults.full_disk(web, "/srv/pos", free_kib=4096, free_inodes=3):
        assert "No space left" in web.run("touch /srv/pos/{1..9}", check=False).stderr
        web.run("rm /srv/pos/?")
    assert (
        web.run("cd /srv/pos; find . -type f | xargs tail -n +1; mount | grep --count srv", check=False).stdout
        == "old\n0\n"
    )


def test_a_shim_that_fails_the_wrong_call(web: Server) -> None:
    with faults.shim(web, "git", nth=2) as git:
        codes = [over_ssh(web, "git --version").returncode for _ in range(3)]
        assert codes == [0, 42, 0]
        assert git.calls == 3
    with faults.shim(web, "uv", nth=None, code=7):
        assert over_ssh(web, "uv --version").returncode == 7
    assert over_ssh(web, "git --version && uv --version").returncode == 0


def test_a_stopped_or_frozen_service_that_answers(web: Server) -> None:
    ask = "timeout 2 redis-cli ping"
    web.settle()
    with faults.stopped(web, "redis-server"):
        assert "refused" in web.run(ask, check=False).stderr
    with faults.frozen(web, "redis-server"):
        assert web.run(ask, check=False).stdout == ""
    assert web.run(ask).stdout == "PONG\n"


def test_a_slow_link_that_is_fast(web: Server) -> None:
    """Never faster than light: a lower bound of time holds on any machine."""
    web.run("systemd-run --quiet python3 -m http.server 8000 --directory /usr/bin; sleep 1")
    with faults.slow_link(web, 400, port=8000) as address, socket.create_connection(address) as connection:
        started = time.monotonic()
        connection.sendall(b"GET /python3 HTTP/1.0\r\n\r\n")
        assert connection.recv(4) == b"HTTP"
        assert time.monotonic() - started > 0.4
        body = b"".join(iter(lambda: connection.recv(65536), b""))
    assert len(body) > int(web.run("stat --dereference --format=%s /usr/bin/python3").stdout)


def test_a_first_deploy_that_downloads(boot: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> None:
    requirements = tmp_path_factory.mktemp("warm") / "requirements.txt"
    requirements.write_text(REQUIREMENTS)
    server = boot("harness-warm", requirements=requirements)
    server.put("/srv/requirements.txt", REQUIREMENTS)
    install = "uv venv --quiet v && uv pip install --offline --require-hashes --python v/bin/python"
    with faults.cut_link(server):
        server.run(f"{install} -r /srv/requirements.txt && v/bin/python -c 'import asgiref'", user="deploy")
    server.close()


def test_a_server_that_outlives_its_tests(boot: Callable[..., Server]) -> None:
    server = Server.boot("harness-gone")
    name, device, folder = server.link.name, server.link.device, server.folder
    assert traces(name)
    server.close()
    server.close()
    assert traces(name) + traces(device) + traces(str(folder)) == []
    assert not folder.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_that_leaves_a_server(boot: Callable[..., Server], how: signal.Signals) -> None:
    """Several processes of a test run clear it away at once."""
    here = [sys.executable, "-m", "tests.servers"]
    root = Path(__file__).parents[2]
    up = [*here, "up", "--name", f"harness-{how.name.lower()}"]
    with subprocess.Popen(up, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        assert "is up" in run.stdout.readline()
        with one_cleaner():  # the other processes of this run clear away as well, and would do so before it is seen
            os.kill(run.pid, how)
            run.wait(60)
            left = traces(f"--hostname=harness-{how.name.lower()}")
    assert len(left) == (1 if how is signal.SIGKILL else 0)
    cleaners = [subprocess.Popen([*here, "clean"], cwd=root) for _ in range(3)]
    assert [cleaner.wait(60) for cleaner in cleaners] == [0, 0, 0]
    assert traces(f"--hostname=harness-{how.name.lower()}") == []
