"""Questions about the machine: its clock, disk, memory, programs, units and rights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from ...model.config import Host, Stage, megabytes
from ...model.finding import Finding, bad, look, ok
from .. import balancer, files
from .question import Answer, Question

STORES = {
    5432: "PostgreSQL",
    6432: "pgBouncer",
    6379: "Redis",
    3306: "MySQL",
    11211: "memcached",
    8000: "an application server",
}
"""Ports that must not be open to the world."""
FEWEST_INODES = 20_000
NARROW = 5_000_000
"""Kilobytes free above which nobody need look, however large the disk."""


def questions(stage: Stage, host: Host) -> Iterator[Question]:
    def disk(answer: Answer) -> Iterator[Finding]:
        return read_disk(answer, stage, host)

    def python(answer: Answer) -> Iterator[Finding]:
        return read_python(answer, stage)

    def packages(answer: Answer) -> Iterator[Finding]:
        return read_packages(answer, stage.provision.packages)

    yield Question("disk", ("ask_disk", *folders(stage, host)), disk)
    yield Question("memory", ("ask_memory",), lambda answer: read_memory(answer, host))
    if stage.manager == "systemd":
        yield Question("time-sync", ("ask_clock",), read_time_sync)
    if host.has_releases:
        yield Question("python", ("ask_python", stage.python.version, stage.python.installer), python, seconds=12)
        if stage.manager == "systemd":
            yield Question("packages", ("ask_packages", *stage.provision.packages), packages)
    expected, commands = sums(stage, host), sudo_commands(stage, host)
    if expected:
        yield Question("units", ("ask_units", *expected), lambda answer: read_units(answer, expected))
    if commands:
        yield Question("sudo", ("ask_sudo", *commands), lambda answer: read_sudo(answer, stage, len(commands)))
    if host.transport == "ssh":
        yield Question("ports", ("ask_ports",), lambda answer: read_ports(answer, stage, host))


def folders(stage: Stage, host: Host) -> tuple[str, ...]:
    """What must not run full there, the most important first."""
    ours = stage.manager == "systemd"
    data = ours and stage.has_postgresql and (host == stage.database_host or host in stage.replicas)
    redis = ours and stage.provision.redis and host == stage.redis_host
    places = ((stage.deploy_to, host.has_releases), ("/var/lib/postgresql", data), ("/var/lib/redis", redis))
    return tuple(place for place, here in places if here)


def read_time_sync(answer: Answer) -> Iterator[Finding]:
    if container := answer.one("container").replace("none", ""):
        yield ok("time-sync", f"the clock is that of the machine around this {container} container")
    elif answer.one("synchronized") == "yes":
        yield ok("time-sync", "by NTP")
    else:
        yield look("time-sync", "nothing keeps the clock right", "timedatectl set-ntp true")


def read_disk(answer: Answer, stage: Stage, host: Host) -> Iterator[Finding]:
    """Of `folders`, then of /, which may be the same."""
    least, tidy = megabytes(stage.minimum_free) * 1024, "fab cleanup; " if host.has_releases else ""
    for number, words in enumerate(_once(answer.every("disk"))):
        total, free, mount = int(words[0]), int(words[1]), words[2]
        value = f"{_size(free)} of {_size(total)} free on {mount}"
        is_ours = number == 0 or mount != "/"
        hint = f"{tidy}du -xh -d 2 {mount} | sort -h | tail"
        if free < (least if is_ours else 1024):
            yield bad("disk", value + (f", less than {stage.minimum_free}" if is_ours else ""), hint)
        elif free < total / 10 and free < NARROW:
            yield look("disk", value, hint)
        else:
            yield ok("disk", value)
    for words in _once(answer.every("inodes")):
        if not (words[0].isdecimal() and words[1].isdecimal()) or words[0] == "0":
            continue  # not counted there
        total, free, mount = int(words[0]), int(words[1]), words[2]
        value, hint = (
            f"{free} of {total} free on {mount}",
            f"delete small files: du --inodes -xd 2 {mount} | sort -n | tail",
        )
        if free < FEWEST_INODES:
            yield bad("inodes", value, hint)
        else:
            yield look("inodes", value, hint) if free < total / 20 else ok("inodes", value)


def _once(lines: list[str]) -> list[list[str]]:
    """The first line of each file system; its figures may change between two looks."""
    words = [line.split() for line in lines]
    return [one for number, one in enumerate(words) if one[-1] not in [before[-1] for before in words[:number]]]


def read_memory(answer: Answer, host: Host) -> Iterator[Finding]:
    total, available, swap, swap_free = (
        int(answer.one(f"{name}:")) for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    )
    value = f"{_size(available)} of {_size(total)} available, {_size(swap) + ' swap' if swap else 'no swap'}"
    if available < max(150_000, total / 20):
        why = "a new release starts beside the old one: fewer workers" if host.has_releases else "ps aux --sort -rss"
        yield look("memory", value, f"{why}, or more memory")
    elif swap and swap_free < swap / 5:
        yield look("memory", f"{value}, nearly all in use", "what runs does not fit: less of it, or more memory")
    else:
        yield ok("memory", value)


def read_python(answer: Answer, stage: Stage) -> Iterator[Finding]:
    uv, version = answer.one("uv"), answer.one("python")
    if missing := answer.one("missing"):
        yield bad("python", missing, answer.one("hint"))
    elif version and not uv and not answer.one("venv"):
        yield bad(
            "python", f"{version}, without its venv module", f"apt-get install python{stage.python.version or 3}-venv"
        )
    elif version:
        brought = "uv is brought along" if stage.python.installer == "uv" else "packages by pip"
        yield ok("python", f"{version}, {uv or brought}")


def read_packages(answer: Answer, wanted: tuple[str, ...]) -> Iterator[Finding]:
    there = [one.removeprefix("installed ") for one in answer.every("package") if one.startswith("installed ")]
    missing = [name for name in wanted if name not in there]
    if answer.one("lfs"):
        yield bad(
            "packages", "the repository keeps files in Git LFS, and git-lfs is missing", "apt-get install git-lfs"
        )
    if missing:
        yield look("packages", f"not installed: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    elif not answer.one("lfs"):
        yield ok("packages", ", ".join(wanted) or "none asked for")


def sums(stage: Stage, host: Host) -> dict[str, str]:
    """Path -> checksum of what anybody may read there, as releases.toml has it now."""
    if stage.manager != "systemd":
        return {}
    serves = stage.provision.nginx and ("web" in host.roles or host in stage.balancers)
    ours = ["/etc/systemd/", "/usr/local/lib/"] * host.has_releases + ["/etc/nginx/"] * serves
    return {
        path: hashlib.sha256(text.encode()).hexdigest()
        for path, text in files.server_files(stage, host).items()
        if path.startswith(tuple(ours))
    }


def read_units(answer: Answer, expected: dict[str, str]) -> Iterator[Finding]:
    found = {path: text for text, _, path in (line.partition(" ") for line in answer.every("sum"))}
    gone = answer.every("absent")
    other = [path for path, text in expected.items() if path in found and found[path] != text] + answer.every("closed")
    if gone:
        yield bad("units", f"not installed: {_names(gone)}", "fab provision, or fab files and install them by hand")
    if other:
        yield look("units", f"not as releases.toml says: {_names(other)}", "fab provision --check shows how")
    if stale := answer.every("stale"):
        yield look("units", f"changed since systemd read them: {', '.join(stale)}", "systemctl daemon-reload, as root")
    if found and not gone and not other and not stale:
        yield ok("units", f"{len(found)} files as releases.toml says")


def _names(paths: list[str]) -> str:
    return ", ".join(path.removeprefix("/etc/systemd/system/") for path in paths)


def sudo_commands(stage: Stage, host: Host) -> tuple[str, ...]:
    """Every command that is run as root here, as templates/server/systemd.sh and balancer.sh say them."""
    if stage.manager != "systemd":
        return ()
    balanced = host in stage.balancers and stage.provision.nginx
    webs = [one.name for one in stage.with_role("web")] if balanced else []
    balance = [f"{balancer.program(stage)} {verb} {web}" for web in webs for verb in ("drain", "undrain")]
    return (*((files.systemctl(stage),) if host.has_releases else ()), *balance)


def read_sudo(answer: Answer, stage: Stage, count: int) -> Iterator[Finding]:
    refused = answer.every("refused")
    rules = [rule for line in answer.every("rule") for rule in re.sub(r"\([^)]*\)|\b[A-Z_]+:", "", line).split(", ")]
    broad = sorted({rule.strip() for rule in rules if rule.strip() == "ALL" or "*" in rule})
    remedy = f"fab provision writes /etc/sudoers.d/{stage.known_as}; fab files shows it"
    if re.search(r"^missing$", answer.text, re.MULTILINE):
        yield bad("sudo", "is not installed", f"apt-get install sudo; {remedy}")
    elif refused:
        more = f" and {len(refused) - 1} more" if refused[1:] else ""
        yield bad("sudo", f"refuses {refused[0]}{more}", remedy)
    elif not broad:
        yield ok(
            "sudo",
            f"{count} programs that check their own words" if count > 1 else "one program that checks its own words",
        )
    if broad:
        yield look(
            "sudo", f"allows more than a deploy needs: {', '.join(broad)}", "remove that rule with visudo, as root"
        )


def exposed(stage: Stage, host: Host, answer: Answer) -> dict[int, str]:
    """Port -> who listens there beyond the machine itself, but for what belongs there."""
    ssh = answer.one("ssh")
    meant = {host.port, 80, 443, *stage.provision.allow, *([int(ssh)] if ssh.isdecimal() else [])}
    found: dict[int, str] = {}
    for line in answer.every("listens"):
        where, _, name = line.partition(" ")
        address, _, port = where.rpartition(":")
        if not address.startswith(("127.", "[::1]", "[::ffff:127.")) and "%lo" not in address:
            found[int(port)] = found.get(int(port)) or name
    return {port: name or STORES.get(port, "") for port, name in sorted(found.items()) if port not in meant}


def read_ports(answer: Answer, stage: Stage, host: Host) -> Iterator[Finding]:
    """The other hosts of a fleet reach its database and its Redis, behind a firewall."""
    fleet = len(stage.hosts) > 1
    found = []
    for port, name in exposed(stage, host, answer).items():
        who = f"{port}{f' ({name})' if name else ''}"
        if port in answer.reached:
            grade = bad if port in STORES else look
            hint = f"bind it to 127.0.0.1, or shut it: ufw deny {port}/tcp"
            found.append(grade("ports", f"{who} is open to the world", hint))
        elif not (fleet and port in STORES):
            hint = "bind it to 127.0.0.1, where only the server itself needs it"
            found.append(look("ports", f"{who} listens beyond the server itself, shut from here", hint))
    if not answer.every("listens"):
        return
    yield from found or [ok("ports", "nothing is open but what should be")]


def _size(kilobytes: int) -> str:
    value, unit = kilobytes / 1024, "MB"
    if value >= 1000:
        value, unit = value / 1024, "GB"
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
