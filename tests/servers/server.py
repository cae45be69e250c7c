"""A real machine to talk to: its own systemd, sshd, network and disk, booted in about a second and thrown away."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import network
from .image import Image, base, cache, locked, mount_overlay
from .network import Link, do

BOOT_SECONDS = 60
MEMORY = Path("/dev/shm/fab-releases")
PLENTY = 12 << 30
"""Bytes; a server with three releases takes one of the twelve."""
STOP_SECONDS = 60
TOOLS = ("mmdebstrap", "systemd-nspawn", "ip", "iptables", "mount", "ssh", "ssh-keygen", "nsenter", "strace")
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/games"  # what sshd gives

Snapshot = tuple[Path, ...]  # the layers of a disk, top first

_open: list[Server] = []


class Server:
    """One booted Debian. Made by `Server.boot`; everything about it goes away with `close`."""

    def __init__(self, name: str, link: Link, folder: Path, layers: Snapshot, ssh_port: int) -> None:
        self.name = name
        self.link = link
        self.address = link.inside
        self.ssh_port = ssh_port
        self.folder = folder / str(link.slot)
        self.owner = os.getpid()
        self._layers = layers
        self._writes = 0
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    @classmethod
    def boot(cls, name: str, *, ssh_port: int = 22, image: Image | None = None, in_memory: bool = False) -> Server:
        """Boot a fresh server and wait until people can log in by ssh.

        `name` is its host name. With `in_memory` its disk is there, if there is plenty. Raises RuntimeError with the
        end of its console when it does not come up.
        """
        layers = (image or base()).layers
        key = client_key()
        folder = _memory() if in_memory and _room_in_memory() > PLENTY else cache() / "running"
        server = cls(name, network.claim(folder), folder, layers, ssh_port)
        _open.append(server)
        try:
            server._prepare(key)
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    # -- talking to it

    def run(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = True,
        input: str | bytes | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash command in the server's namespaces (about 10 ms; no ssh), in the home of `user`.

        Raises CalledProcessError with what it wrote, TimeoutExpired after `timeout` seconds (the command is ended).
        A command that leaves a process in the background must redirect its output.
        """
        path = ROOT_PATH if user == "root" else USER_PATH
        login = f"export HOME=~{user} USER={user} LOGNAME={user} PATH={path}; cd ~ 2>/dev/null || cd /"
        words = [*self._enter(), "timeout", "--kill-after=2", str(timeout), "runuser", f"--user={user}", "--"]
        words += ["bash", "-c", f"{login}\n{command}"]
        data = input.encode() if isinstance(input, str) else input or b""
        started = time.monotonic()
        done = subprocess.run(words, input=data, capture_output=True, timeout=timeout + 10)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if done.returncode in (124, 137, -signal.SIGKILL) and time.monotonic() - started >= timeout:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, out, err)
            error.add_note(f"on {self.name} as {user}:\n{(out + err)[-2000:]}")
            raise error
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def put(self, path: str, content: str | bytes, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file, making the folders above it; `owner` is "user" or "user:group"."""
        user, _, group = owner.partition(":")
        words = ["install", "-D", f"--mode={mode:o}", f"--owner={user}", f"--group={group or user}", "/dev/stdin", path]
        data = content.encode() if isinstance(content, str) else content
        subprocess.run([*self._enter(), *words], input=data, check=True, capture_output=True)

    def settle(self) -> None:
        """Wait until everything that starts at boot has started: PostgreSQL takes some seconds longer than ssh."""
        self.run("systemctl is-system-running --wait", check=False)

    def ssh(self, user: str = "deploy") -> list[str]:
        """The words of an ssh command that logs in as `user`, trusting this server's present key only."""
        (self.folder / "known_hosts").write_text(self.known_hosts)
        options = [f"UserKnownHostsFile={self.folder / 'known_hosts'}", "GlobalKnownHostsFile=/dev/null"]
        options += ["StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes"]
        words = ["ssh", "-F", "none", "-p", str(self.ssh_port), "-i", str(client_key())]
        return [*words, *(f"-o{option}" for option in options), f"{user}@{self.address}"]

    def ssh_config(self, user: str = "deploy") -> str:
        """A block for an ssh configuration file by which this server is known under its name."""
        lines = (f"HostName {self.address}", f"Port {self.ssh_port}", f"User {user}", f"IdentityFile {client_key()}")
        return f"Host {self.name}\n" + "".join(f"    {line}\n" for line in (*lines, "IdentitiesOnly yes"))

    # -- who it is

    @property
    def known_hosts(self) -> str:
        """The line for known_hosts that pins this server's present key."""
        host = self.address if self.ssh_port == 22 else f"[{self.address}]:{self.ssh_port}"
        kind, key = (self._root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
        return f"{host} {kind} {key}\n"

    def new_host_key(self) -> None:
        """Become somebody else, as a reinstalled or an impersonated server would."""
        made = self.folder / "host_key"
        _new_key(made)
        self.put("/etc/ssh/ssh_host_ed25519_key", made.read_bytes(), 0o600)
        self.put("/etc/ssh/ssh_host_ed25519_key.pub", made.with_suffix(".pub").read_bytes())
        self.run("systemctl restart ssh")
        self._wait_for_ssh()

    # -- on and off

    @property
    def is_closed(self) -> bool:
        return self not in _open

    @property
    def is_up(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def start(self) -> None:
        """Boot what is on the disk; no effect on a server that is up."""
        if self.is_up:
            return
        network.renew(self.link)
        if not os.path.ismount(self._root):
            mount_overlay(self._root, self._upper, self._work, self._layers)
        self._nspawn = self._spawn()
        self._wait_for_ssh()

    def poweroff(self) -> None:
        """Shut down in order, as `systemctl poweroff` does."""
        self._shut_down("poweroff")

    def reboot(self) -> None:
        """Shut down in order and boot again. After a `reboot` typed inside, the server is off until `start`."""
        self._shut_down("reboot")
        self.start()

    def power_loss(self) -> None:
        """Everything stops at once and says nothing on the network. What was written to the disk is still there.

        The link goes down first: a dying process's sockets would still tell their peers. It is the server's init that
        is killed: without systemd-nspawn it would run on. Writes that were never synced survive too, in the cache of
        this machine's kernel: to lose them takes a disk image, not a server.
        """
        network.cut(self.link)
        os.kill(self._init, signal.SIGKILL)
        self._wait_until_down()

    def snapshot(self) -> Snapshot:
        """Shut down, keep the disk as it is, boot. `reset` goes back to here."""
        self.poweroff()
        self._unmount()
        self._layers = (self._upper, *self._layers)
        self._fresh_disk()
        self.start()
        return self._layers

    def reset(self, to: Snapshot | None = None) -> None:
        """Boot from the last snapshot (or the one named); at first that is the freshly booted server."""
        self._kill()
        self._unmount()
        shutil.rmtree(self._upper)
        self._layers = self._layers if to is None else to
        self._fresh_disk()
        self.start()

    @property
    def pristine(self) -> Snapshot:
        """The snapshot of the server as it was before its first boot."""
        first = next(index for index, layer in enumerate(self._layers) if layer == self.folder / "disk0")
        return self._layers[first:]

    def close(self) -> None:
        """Stop the server and remove its processes, mounts, network and files. May be called again."""
        if not self.is_closed:
            _kill_all(self.link)
            if self._nspawn is not None:
                self._nspawn.wait(STOP_SECONDS)
            _remove(self.link, self.folder)
            _open.remove(self)

    # -- inside

    @property
    def init(self) -> int:
        """The process of this machine that is process 1 of the server."""
        return self._init

    @property
    def _root(self) -> Path:
        return self.folder / "root"

    @property
    def _upper(self) -> Path:
        return self.folder / f"disk{self._writes}"

    @property
    def _work(self) -> Path:
        return self.folder / f"work{self._writes}"

    def _enter(self) -> list[str]:
        if not self.is_up:
            raise RuntimeError(f"{self.name} is off")
        settings = Path(f"/proc/{self._init}/root/etc/environment").read_text().split("\n")
        clean = ["env", "-i", f"PATH={ROOT_PATH}", "LANG=C.UTF-8", "HOME=/root", "USER=root", *filter(None, settings)]
        return ["nsenter", f"--target={self._init}", "--all", *clean]

    def _prepare(self, key: Path) -> None:
        """Write what makes this server itself, as the lowest layer that is its own."""
        mount_overlay(self._root, self._upper, self._work, self._layers)
        etc = self._root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "ssh/sshd_config.d/port.conf").write_text(f"Port {self.ssh_port}\n")
        _new_key(etc / "ssh/ssh_host_ed25519_key")
        for home in (one for one in ("root", "home/deploy") if (self._root / one).exists()):
            owner = (self._root / home).stat()
            folder = self._root / home / ".ssh"
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
            for path in (folder, folder / "authorized_keys"):
                os.chown(path, owner.st_uid, owner.st_gid)
        self._unmount()
        self._layers = (self._upper, *self._layers)
        self._fresh_disk()

    def _fresh_disk(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._writes += 1

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start systemd-nspawn in control groups of its own.

        With --keep-unit it boots the server in the group it finds itself in: two servers in one group would
        each take the other's services for their own.
        """
        groups = [str(folder / "cgroup.procs") for folder in _control_groups(self.link)]
        enter = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"'
        words = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--capability=all",
            "--boot",
            "--console=pipe",
        ]
        words += [
            f"--directory={self._root}",
            f"--machine={self.link.name}",
            f"--hostname={self.name}",
            "--resolv-conf=off",
        ]
        words += [f"--network-namespace-path=/run/netns/{self.link.name}"]
        with (self.folder / "console.log").open("wb") as console:
            return subprocess.Popen(
                ["sh", "-c", enter, "sh", *groups, "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # Ctrl-C is for the tests, which then close the server
            )

    def _wait_for_ssh(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self.is_up:
            if answers(self.address, self.ssh_port) and self._logins_allowed():
                return
            time.sleep(0.02)
        console = (self.folder / "console.log").read_text(errors="replace")
        raise RuntimeError(f"{self.name} did not come up:\n{console[-2000:]}")

    def _logins_allowed(self) -> bool:
        """sshd answers before systemd lets anyone but root in."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self._init = int(children[0]) if children else 0
        return bool(self._init) and not Path(f"/proc/{self._init}/root/run/nologin").exists()

    def _shut_down(self, how: str) -> None:
        subprocess.run([*self._enter(), "systemctl", "--no-block", how], capture_output=True)
        self._wait_until_down()

    def _wait_until_down(self) -> None:
        if self._nspawn is not None:
            self._nspawn.wait(STOP_SECONDS)
        self._kill()

    def _kill(self) -> None:
        _kill_all(self.link)
        if self._nspawn is not None:
            self._nspawn.wait(STOP_SECONDS)
        self._nspawn, self._init = None, 0

    def _unmount(self) -> None:
        _unmount(self._root)


def unavailable() -> str | None:
    """Why this machine cannot boot servers, in one line; None where it can."""
    if not Path("/proc/self/ns/net").exists():
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (run tests/servers/install.sh)"
    return None


def client_key() -> Path:
    """The private key that root and deploy of every server accept; the public one is beside it."""
    key = cache() / "client_key"
    with locked(cache() / "client_key.lock"):
        if not key.exists():
            _new_key(key)
    return key


@contextmanager
def one_cleaner() -> Iterator[None]:
    """Nobody else removes what dead runs left, meanwhile."""
    with locked(network.RECORDS / "cleaning"):
        yield


def clean() -> int:
    """Remove what dead runs left on this machine; how many servers that were.

    One process at a time: a second one with the same list would take a server's folders away under the first, and
    later a new server that has got the number of the old one.
    """
    with one_cleaner():
        found = list(network.abandoned())
        for link, folder in found:
            _kill_all(link)
            _remove(link, folder)
    return len(found)


@atexit.register
def close_all() -> None:
    """Close what this process booted; a child it forked has no say."""
    for server in [server for server in _open if server.owner == os.getpid()]:
        server.close()


def _memory() -> Path:
    MEMORY.mkdir(mode=0o700, exist_ok=True)
    if MEMORY.is_symlink() or MEMORY.stat().st_uid != 0 or MEMORY.stat().st_mode & 0o077:
        raise RuntimeError(f"{MEMORY} is somebody else's, or open to others: remove it")
    return MEMORY


def _room_in_memory() -> int:
    """Bytes that a file system in memory may take without taking them from anybody; 0 where there is none."""
    if not os.path.ismount(MEMORY.parent):
        return 0
    room = os.statvfs(MEMORY.parent)
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return min(room.f_bavail * room.f_frsize, int(available.split()[1]) * 1024)


def _new_key(path: Path) -> None:
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fab-releases-test", "-f", str(path))


def answers(address: str, port: int) -> bool:
    """Whether an ssh server says its name there within half a second."""
    with suppress(OSError), socket.create_connection((address, port), timeout=0.5) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def _control_groups(link: Link) -> list[Path]:
    """Folders of this server's own in the hierarchies systemd uses: the unified one, its own in version 1, or both."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(point) / link.name)
            found[-1].mkdir(exist_ok=True)
    return found


def _kill_all(link: Link) -> None:
    """End every process of a server, systemd-nspawn too; the kernel ends all others when process 1 goes."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        alive = {pid for folder in _control_groups(link) for pid in _processes(folder)}
        if not alive:
            return
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    raise RuntimeError(f"processes of {link.name} survive SIGKILL: {sorted(alive)}")


def _processes(group: Path) -> Iterator[int]:
    for folder, _, _ in os.walk(group):  # which, unlike rglob, bears with folders that go away meanwhile
        with suppress(OSError):
            yield from map(int, Path(folder, "cgroup.procs").read_text().split())


def _remove(link: Link, folder: Path) -> None:
    _unmount(folder / "root")
    shutil.rmtree(folder, ignore_errors=True)
    for group in _control_groups(link):
        for path, _, _ in os.walk(group, topdown=False):
            Path(path).rmdir()
    with suppress(OSError):
        Path("/run/systemd/nspawn/propagate", link.name).rmdir()
    network.release(link)


def _unmount(root: Path) -> None:
    """Unmount; for a moment after the last process is gone the kernel may still call the mount busy."""
    for _ in range(100):
        if not os.path.ismount(root):
            return
        if subprocess.run(["umount", str(root)], capture_output=True).returncode != 0:
            time.sleep(0.02)
    do("umount", str(root))
