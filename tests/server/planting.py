"""What root touches while something runs on a server, and what an account may plant in its way.

`watched` says which paths a run touches, by watching it; `PLANTS` what may lie there instead; `outside` what nobody but
root may change. Any act can be put into the matrix: `fab provision` is one, a restore or a timer is another.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.servers import Server

ACCOUNTS = ("deploy", "app")
VICTIM, VICTIMS = "/root/victim", "/root/victims"
"""A file and a folder of root's that links lead to."""
OUTSIDE = ("/etc", "/root", "/usr/local", "/var/lib/fab-releases", "/var/spool/cron", "/var/www")
ARGUMENT = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
NO_ARGUMENTS_BUT_THE_FIRST = ("execve(", "readlink", "getcwd")
SWAPPED = "swapped folder"
"""The folder that holds the path is itself replaced."""
PLANTS = {
    "link": f"ln -s {VICTIM} {{path}}",
    "link to a folder": f"ln -s {VICTIMS} {{path}}",
    "link to nothing": "ln -s /etc/sudoers.d/planted {path}",
    "hard link": f"ln {VICTIM} {{path}}",
    "FIFO": "mkfifo -m 666 {path}; chown {account}: {path}",
    "device": "mknod -m 666 {path} c 1 5; chown {account}: {path}",
    SWAPPED: f"ln -s {VICTIMS} {{path}}",
}
"""How it is made; as root, for the kernels of some servers allow the account itself, and those of others do not."""


@dataclass
class Watched:
    """Absolute paths by which files were named."""

    paths: set[str] = field(default_factory=set)


@contextmanager
def watched(server: Server) -> Iterator[Watched]:
    """Whatever sshd starts meanwhile, and all that comes of it. Filled in after the block."""
    seen = Watched()
    told = server.folder / "strace.txt"
    words = ["strace", "-f", "-y", "-qq", "-s", "400", "-e", "trace=%file", "-e", "signal=none", "-o", str(told)]
    words += ["-p", str(_outside_number(server, "ssh"))]
    tracer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_tracer(tracer)
        yield seen
    finally:
        tracer.terminate()
        tracer.wait(30)
    seen.paths = set(_paths(told))


def _await_tracer(tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while f"TracerPid:\t{tracer.pid}" not in _status(int(tracer.args[-1])):  # type: ignore[index,arg-type]
        assert tracer.poll() is None, "strace did not start"
        assert time.monotonic() < deadline, "strace watches nothing"
        time.sleep(0.05)


def _outside_number(server: Server, unit: str) -> int:
    """Of the unit's process, as this machine counts."""
    inside = server.run(f"systemctl show -p MainPID --value {unit}").stdout.strip()
    theirs = Path(f"/proc/{server.init}/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        numbers = re.search(r"NSpid:\t(.*)", _status(int(process.name)))
        if numbers and numbers[1].split()[-1] == inside and (process / "ns/pid").readlink() == theirs:
            return int(process.name)
    raise AssertionError(f"{unit} has no process")


def _status(number: int) -> str:
    try:
        return Path(f"/proc/{number}/status").read_text()
    except OSError:
        return ""


def _paths(told: Path) -> Iterator[str]:
    with told.open(errors="replace") as lines:
        for line in lines:
            found = ARGUMENT.findall(line)
            for folder, name in found[:1] if any(word in line for word in NO_ARGUMENTS_BUT_THE_FIRST) else found:
                path = f"{folder}/{name}" if folder and not name.startswith("/") else name
                if path.startswith("/") and name:
                    yield str(PurePosixPath(path))


def within_reach(server: Server, paths: set[str]) -> list[tuple[str, str]]:
    """(path, account) for each whose folder one of ACCOUNTS may write."""
    listed = "\n".join(sorted(path for path in paths if not path.startswith(("/proc/", "/dev/", "/sys/"))))
    ask = 'while IFS= read -r path; do if [ -w "${path%/*}/" ]; then echo "$path"; fi; done'
    found = {account: server.run(ask, user=account, input=f"{listed}\n").stdout.splitlines() for account in ACCOUNTS}
    return [(path, account) for account, those in found.items() for path in those]


def outside(server: Server) -> dict[str, str]:
    """Path -> kind, owner, mode, and content of everything that nobody but root may change."""
    below = f"find {' '.join(OUTSIDE)} -xdev"
    names = server.run(f"{below} -printf '%p\\t%y %U:%G %m %l\\n'", check=False).stdout.splitlines()
    sums = server.run(f"{below} -type f -exec sha256sum {{}} +", check=False).stdout.splitlines()
    found = dict(line.split("\t", 1) for line in names)
    return found | {f"content of {line[66:]}": line[:64] for line in sums}


@contextmanager
def planted(server: Server, path: str, account: str, kind: str) -> Iterator[None]:
    """`kind` of PLANTS is at `path`; what was there is back afterwards."""
    where = str(PurePosixPath(path).parent) if kind == SWAPPED else path
    at, aside = shlex.quote(where), "/var/tmp/aside"
    server.run(f"rm -rf {aside}; if [ -e {at} ] || [ -L {at} ]; then mv -T {at} {aside}; fi")
    server.run(PLANTS[kind].format(path=at, account=account))
    if kind in (SWAPPED, "link to a folder"):
        inside = f"{VICTIMS}/{shlex.quote(PurePosixPath(path).name)}"
        server.run(f"echo secret >{inside}; chmod 600 {inside}")
    try:
        yield
    finally:
        back = f"rm -rf {at}; if [ -e {aside} ] || [ -L {aside} ]; then mv -T {aside} {at}; fi"
        server.run(f"{back}; find {VICTIMS} -mindepth 1 -delete")


def kinds_for(server: Server, path: str, account: str) -> list[str]:
    """A folder is swapped only where the account may write the one above."""
    above = shlex.quote(str(PurePosixPath(path).parent.parent))
    swaps = server.run(f"test -w {above}/", user=account, check=False).returncode == 0
    return [kind for kind in PLANTS if kind != SWAPPED or swaps]


def attacked(server: Server, path: str, account: str, kind: str, act: Callable[[], tuple[int, str]]) -> str:
    """What went wrong when `account` planted `kind` at `path` before `act`; "" when nothing did.

    `act` gives its exit status and everything it said; TimeoutExpired where it did not end in time.
    """
    with planted(server, path, account, kind):
        before = outside(server)
        try:
            status, said = act()
        except subprocess.TimeoutExpired:
            return f"{account} planted a {kind} at {path}: it did not end in time"
        after = outside(server)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        return f"{account} planted a {kind} at {path}: changed {changed[:5]}"
    if status and path not in said and str(PurePosixPath(path).parent) not in said:
        return f"{account} planted a {kind} at {path}: it ended with {status} and did not name it: {said[-600:]}"
    return ""
