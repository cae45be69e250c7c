"""What test servers boot from: Debian with the services of a Django host, built once, kept in read-only layers."""

from __future__ import annotations

import configparser
import fcntl
import functools
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uv

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "git", "ca-certificates", "python3", "python3-venv"),
    *("postgresql", "redis-server", "nginx", "iproute2", "procps", "curl", "rsync", "ufw", "nftables", "restic"),
    "pgbackrest",
)
BARE = ("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "ca-certificates")
PROVISIONED = (
    *("postgresql", "redis-server", "nginx", "ufw", "git", "curl", "python3", "python3-venv", "procps", "logrotate"),
    *("unattended-upgrades", "fail2ban", "python3-systemd", "certbot", "pebble", "pgbackrest", "restic"),
)
SUITE = "bookworm"
MMDEBSTRAP = (
    "mmdebstrap",
    "--variant=minbase",
    "--include=" + ",".join(PACKAGES),
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--customize-hook=rm -f $1/etc/ssh/ssh_host_* $1/etc/hostname",  # every server has its own
    SUITE,
)
SETTLE = """
useradd --create-home --shell /bin/bash --groups www-data,systemd-journal deploy
useradd --system --user-group --groups www-data --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer  # noise on a two-core machine
"""
SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# How this machine reaches its package index; the servers reach it the same way.
SETTINGS = re.compile(
    r"(PIP|UV)_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|CERT|NATIVE_TLS|DEFAULT_TIMEOUT|HTTP_TIMEOUT)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO|(HTTPS?|NO|ALL)_PROXY",
    re.IGNORECASE,
)
APT_SETTINGS = re.compile(r"Acquire::(Check-Valid-Until|Check-Date|https?::Proxy\S*|https?::CaInfo) ")


@dataclass(frozen=True)
class Image:
    """Directory trees to mount on one another, top first. They are never written to."""

    layers: tuple[Path, ...]


def cache() -> Path:
    """The folder of images, keys and running servers; only root may look inside."""
    folder = Path(os.environ.get("FAB_RELEASES_CACHE") or Path.home() / ".cache" / "fab-releases").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@functools.lru_cache  # asking apt takes a second
def base() -> Image:
    """Debian with PostgreSQL, Redis, nginx, sshd and uv; users `deploy` (logs in) and `app` (does not)."""
    debian = _layer("debian", [*MMDEBSTRAP, *_apt_sources(), *_apt_settings()], _build_debian)
    files = _machine_files()
    described = [
        debian.name,
        importlib.metadata.version("uv"),
        SETTLE,
        *(f"{path}\0{text}" for path, text in files.items()),
    ]
    dressed = _layer("machine", described, lambda upper: _dress(upper, debian, files))
    return Image((dressed, debian))


@functools.lru_cache
def bare(suite: str = SUITE) -> Image:
    """Debian with systemd, sshd and sudo and nothing else; what provisioning installs lies ready in apt's cache."""
    command = [*MMDEBSTRAP[:2], "--include=" + ",".join(BARE), *MMDEBSTRAP[3:-1], suite]
    described = [*command, *_apt_sources(suite), *_apt_settings()]
    debian = _layer("bare", described, lambda upper: _build_debian(upper, command))
    files = _machine_files()

    def build(upper: Path) -> None:
        with overlay(upper, (debian,)) as root:
            _write(root, files)
            fetch = "apt-get -q update && apt-get -q -y --download-only --no-install-recommends install"
            _inside(root, "root", f"{fetch} {' '.join(PROVISIONED)}")

    described = [debian.name, *PROVISIONED, *(f"{path}\0{text}" for path, text in files.items())]
    return Image((_layer("bare-machine", described, build), debian))


def warm(requirements: Path) -> Image:
    """The base image in which uv's cache of the user deploy already holds what `requirements` names."""
    below = base()

    def build(upper: Path) -> None:
        with overlay(upper, below.layers) as root:
            wanted = root / "var/tmp/requirements.txt"
            shutil.copy(requirements, wanted)
            wanted.chmod(0o644)
            _inside(
                root,
                "deploy",
                "uv pip install --quiet --python /usr/bin/python3 --target /tmp/x -r /var/tmp/requirements.txt",
            )
            wanted.unlink()

    layer = _layer("warm", [*(layer.name for layer in below.layers), requirements.read_text()], build)
    return Image((layer, *below.layers))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mount_overlay(root: Path, upper: Path, work: Path, layers: tuple[Path, ...]) -> None:
    """Mount `layers` at `root`, with writes going to `upper`.

    redirect_dir: without it, renaming a directory that came with a lower layer fails with EXDEV.
    """
    for folder in (root, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)  # its mode is the mode of / inside
    lower = ":".join(map(str, layers))
    options = f"redirect_dir=on,lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)


@contextmanager
def overlay(upper: Path, layers: tuple[Path, ...]) -> Iterator[Path]:
    """A writable tree over `layers` for as long as the block runs; what it wrote stays in `upper`."""
    root, work = upper.parent / "root", upper.parent / "work"
    mount_overlay(root, upper, work, layers)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


def _layer(kind: str, described_by: list[str], build: Callable[[Path], None]) -> Path:
    """The layer that this description names: built aside by the first who asks, then renamed."""
    key = hashlib.sha256("\0".join(described_by).encode()).hexdigest()[:16]
    target = cache() / "images" / f"{kind}-{key}"
    if target.exists():
        return target
    with locked(cache() / "images.lock"):
        if target.exists():
            return target
        target.parent.mkdir(exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        started = time.monotonic()
        print(f"test servers: building layer {target.name} (once) ...", file=sys.stderr, flush=True)
        try:
            build(aside / "upper")
            (aside / "upper").rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        print(f"test servers: built in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return target


def _build_debian(upper: Path, like: Sequence[str] = MMDEBSTRAP) -> None:
    options = [f"--aptopt={line}" for line in _apt_settings()]
    command = [like[0], *options, *like[1:], str(upper), *_apt_sources(like[-1])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap failed ({done.returncode}):\n{done.stderr[-2000:]}")


def _dress(upper: Path, debian: Path, files: dict[str, str]) -> None:
    """Everything of the image that is not a Debian package."""
    with overlay(upper, (debian,)) as root:
        shutil.copy2(uv.find_uv_bin(), root / "usr/local/bin/uv")
        _write(root, files)
        _inside(root, "root", SETTLE)


def _write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(text)


def _inside(root: Path, user: str, script: str) -> None:
    """Run a script in a tree that is not booted, on this machine's own network."""
    environment = [f"--setenv={name}={value}" for name, value in _environment().items()]
    command = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--pipe",
        "--resolv-conf=off",
        "-D",
        str(root),
    ]
    command += [f"--machine=fab-releases-build-{os.getpid()}", f"--user={user}", *environment, "bash", "-euc", script]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"a step of the image failed ({done.returncode}):\n{(done.stdout + done.stderr)[-2000:]}")


def _machine_files() -> dict[str, str]:
    """Small files by path: trust, names and package index as this machine has them."""
    files = {
        "/etc/environment": "".join(f"{name}={value}\n" for name, value in _environment().items()),
        "/etc/pip.conf": _pip_settings(),
        "/etc/resolv.conf": _resolver(),
        "/etc/ssh/sshd_config.d/tests.conf": SSHD,
    }
    if CERTIFICATES.exists():
        files[str(CERTIFICATES)] = CERTIFICATES.read_text()
    for path in (Path("/etc/uv/uv.toml"), Path.home() / ".config/uv/uv.toml"):
        if path.exists():
            files["/etc/uv/uv.toml"] = path.read_text()
    return files


def _environment() -> dict[str, str]:
    found = {name: value for name, value in sorted(os.environ.items()) if SETTINGS.fullmatch(name)}
    return {name: value for name, value in found.items() if _means_something_elsewhere(value)}


def _means_something_elsewhere(value: str) -> bool:
    """A folder of this machine means nothing in a server; the certificates do: they are copied."""
    return value.startswith(str(CERTIFICATES.parent)) or not value.startswith(("/", "file:"))


def _pip_settings() -> str:
    parser = configparser.RawConfigParser()
    parser.read([Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    for section in parser.sections():
        for option, value in parser.items(section):
            if not _means_something_elsewhere(value):
                parser.remove_option(section, option)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _resolver() -> str:
    """A stub resolver on loopback cannot be reached from a server; systemd keeps the real list beside it."""
    text, behind_stub = Path("/etc/resolv.conf").read_text(), Path("/run/systemd/resolve/resolv.conf")
    return behind_stub.read_text() if "127.0.0.53" in text and behind_stub.exists() else text


def _apt_sources(suite: str = SUITE) -> list[str]:
    """This machine's own Debian mirrors, which have every suite; none (mmdebstrap's) where it is not bookworm."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"]
    done = subprocess.run([*command, "Created-By: Packages"], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in sorted(set(done.stdout.splitlines()))]
    return [
        f"deb {address} {release.replace(SUITE, suite)} main"
        for origin, codename, address, release, component in rows
        if origin == "Debian" and codename.startswith(SUITE) and component == "main"
    ]


def _apt_settings() -> list[str]:
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    return [line.rstrip(";") for line in done.stdout.splitlines() if APT_SETTINGS.match(line)]
