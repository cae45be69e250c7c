"""One network per test server: a namespace, a pair of virtual interfaces, a /30 that nobody else holds."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .image import locked

SUBNET = ipaddress.ip_network("10.231.0.0/16")
RECORDS = Path("/run/fab-releases")  # one file per server that exists, whoever booted it
LOCK = RECORDS / "lock"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
FORWARDING_BEFORE = RECORDS / "ip_forward"
DEVICE = "fabr"


@dataclass(frozen=True)
class Link:
    """The network of server number `slot`; every name in it follows from the number."""

    slot: int

    @property
    def name(self) -> str:
        return f"fab-releases-{self.slot}"

    @property
    def device(self) -> str:
        """The end of the pair on this machine; the end inside is eth0."""
        return f"{DEVICE}{self.slot}"

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((int(SUBNET.network_address) + 4 * self.slot, 30))

    @property
    def outside(self) -> str:
        return str(self.network[1])

    @property
    def inside(self) -> str:
        return str(self.network[2])


def claim(folder: Path) -> Link:
    """Take the first free /30 for a server that lives in a numbered folder of `folder`, and bring it up.

    Raises RuntimeError when an interface that is not ours holds an address of the subnet.
    """
    with locked(LOCK):
        _refuse_neighbours()
        link = next(Link(slot) for slot in range(SUBNET.num_addresses // 4) if not _record(slot).exists())
        owner = {"pid": os.getpid(), "started": _started(os.getpid()), "folder": str(folder / str(link.slot))}
        _record(link.slot).write_text(json.dumps(owner))
        _share()
        _down(link)
        _up(link)
        return link


def abandoned() -> Iterator[tuple[Link, Path]]:
    """The servers whose process is gone, each with its folder."""
    with locked(LOCK):
        records = [(Link(int(path.stem)), json.loads(path.read_text())) for path in RECORDS.glob("*.json")]
    for link, owner in records:
        if _started(owner["pid"]) != owner["started"]:
            yield link, Path(owner["folder"])


def renew(link: Link) -> None:
    """Begin again with an empty namespace: a machine that boots knows no firewall rule and no connection."""
    with locked(LOCK):
        _down(link)
        _up(link)


def release(link: Link) -> None:
    """Remove the network of a server that is gone, and what all shared after the last one."""
    with locked(LOCK):
        _down(link)
        _record(link.slot).unlink(missing_ok=True)
        if not any(RECORDS.glob("*.json")) and FORWARDING_BEFORE.exists():
            FORWARDING.write_text(FORWARDING_BEFORE.read_text())
            _try("ip", "route", "del", "blackhole", str(SUBNET))
            FORWARDING_BEFORE.unlink()
            _try("umount", "/run/netns")  # made by the first `ip netns add`; stays while any namespace is in it


def cut(link: Link) -> None:
    """Take the inner end down: with the outer one down, packets would leave by the machine's default route."""
    do("ip", "-n", link.name, "link", "set", "eth0", "down")


def heal(link: Link) -> None:
    """Bring the inner end up again; the default route went away with it."""
    do("ip", "-n", link.name, "link", "set", "eth0", "up")
    do("ip", "-n", link.name, "route", "replace", "default", "via", link.outside)


def do(*command: str) -> None:
    """Run a command; on failure raise CalledProcessError that says what the command said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr.strip())
        raise error


def _try(*command: str) -> None:
    subprocess.run(command, capture_output=True)


def _record(slot: int) -> Path:
    return RECORDS / f"{slot}.json"


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot: with the number it names one process for good. Empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _refuse_neighbours() -> None:
    listing = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True).stdout
    for device in json.loads(listing):
        addresses = [ipaddress.ip_address(entry["local"]) for entry in device.get("addr_info", [])]
        if not device["ifname"].startswith(DEVICE) and any(address in SUBNET for address in addresses):
            raise RuntimeError(f"{SUBNET} is taken: {device['ifname']} has an address in it")


def _share() -> None:
    """What all servers need once: forwarding, and no way out for test addresses that nobody holds."""
    if not FORWARDING_BEFORE.exists():
        FORWARDING_BEFORE.write_text(FORWARDING.read_text())
        FORWARDING.write_text("1")
        _try("ip", "route", "add", "blackhole", str(SUBNET), "metric", "4278")


def _up(link: Link) -> None:
    inside = ("ip", "-n", link.name)
    do("ip", "netns", "add", link.name)
    do("ip", "link", "add", link.device, "type", "veth", "peer", "name", "eth0", "netns", link.name)
    do("ip", "address", "add", f"{link.outside}/30", "dev", link.device)
    do("ip", "link", "set", link.device, "up")
    do(*inside, "address", "add", f"{link.inside}/30", "dev", "eth0")
    do(*inside, "link", "set", "lo", "up")
    do(*inside, "link", "set", "eth0", "up")
    do(*inside, "route", "add", "default", "via", link.outside)
    for chain, *rule in _rules(link):
        do("iptables", "-w", *_table(chain), "-I", chain, *rule)


def _down(link: Link) -> None:
    for chain, *rule in _rules(link):
        _try("iptables", "-w", *_table(chain), "-D", chain, *rule)
    _try("ip", "link", "del", link.device)  # first: a dead namespace lets go of its end only some time later
    _try("ip", "netns", "del", link.name)


def _rules(link: Link) -> list[list[str]]:
    network, comment = str(link.network), ["-m", "comment", "--comment", link.name]
    return [
        ["POSTROUTING", "-s", network, "!", "-d", str(SUBNET), *comment, "-j", "MASQUERADE"],
        ["FORWARD", "-s", network, *comment, "-j", "ACCEPT"],
        ["FORWARD", "-d", network, *comment, "-j", "ACCEPT"],
    ]


def _table(chain: str) -> tuple[str, str]:
    return ("-t", "nat" if chain == "POSTROUTING" else "filter")
