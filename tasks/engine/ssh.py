"""Servers over SSH, by Fabric's connections: strict about host keys, quick to notice a dead link, one channel each."""

from __future__ import annotations

import base64
import binascii
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from ..model.errors import HostLost, UsageError
from .session import Session, command_line, packed

# What it has to say of a lost connection we say ourselves; with no handler it would go to stderr as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

TCP_USER_TIMEOUT = 18
"""Linux: milliseconds unacknowledged data may stay so before the connection counts as dead. Keepalive alone is not
counted by paramiko: a cut link was still unnoticed after 25 s, with this after 8."""
DEAD_AFTER_MS = 8000


@dataclass(frozen=True)
class Target:
    """Where and as whom; `host_key` is "type base64" or "" for known_hosts."""

    name: str
    address: str
    port: int
    user: str
    host_key: str = ""
    identity: str = ""
    sudo: bool = False
    """Whether everything is done as root."""


class UnknownHostKey(paramiko.SSHException):
    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("the host key is not known")
        self.key = key


class Reject(paramiko.MissingHostKeyPolicy):
    """As paramiko's own, and keeps the key for the message: people compare its fingerprint."""

    def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        raise UnknownHostKey(key)


class Connection(fabric.Connection):
    """Fabric's own accepts any host key, even a changed one (fabric#1804, #2071)."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.client.set_missing_host_key_policy(Reject())


def connect(target: Target, known_hosts: Path | None = None) -> Connection:
    """An open connection. HostLost says why there is none, and what to do."""
    options: dict[str, Any] = {"banner_timeout": 20, "auth_timeout": 20}
    if target.identity:
        options |= {"key_filename": str(Path(target.identity).expanduser())}
    connection = Connection(
        target.address,
        user=target.user,
        port=None if target.port == 22 else target.port,
        connect_timeout=15,
        forward_agent=False,
        connect_kwargs=options,
    )
    revoked = _trust(connection, target, known_hosts or Path("~/.ssh/known_hosts").expanduser())
    try:
        connection.open()
    except (paramiko.BadHostKeyException, UnknownHostKey) as problem:
        raise HostLost(*_stranger(problem, target, connection, revoked)) from None
    except paramiko.AuthenticationException as problem:
        key = f"-i {target.identity} " if target.identity else ""
        raise HostLost(
            f"{target.name}: {target.user} is not let in at {connection.host}:{connection.port} ({problem})",
            f"try: ssh -p {connection.port} {key}{target.user}@{connection.host} true",
        ) from None
    except paramiko.SSHException as problem:
        raise HostLost(f"{target.name}: SSH: {problem}") from None
    except (OSError, EOFError, ValueError, KeyError) as problem:
        where = f"{connection.host}:{connection.port}"
        raise HostLost(
            f"{target.name}: no connection to {where} ({problem or type(problem).__name__})",
            "is the address right, the server up, the port open?",
        ) from None
    _stay_awake(connection.transport)
    return connection


class SshChannel:
    def __init__(self, connection: Connection, size: int, *, sudo: bool = False) -> None:
        self.connection = connection
        self.channel = connection.transport.open_session(timeout=20)
        self.channel.set_combine_stderr(True)
        self.channel.exec_command(command_line(size, sudo=sudo))

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), 1 << 15):  # paramiko slices what it has not sent yet, quadratically
            self.channel.sendall(data[start : start + (1 << 15)])

    def read(self) -> bytes:
        return bytes(self.channel.recv(65536))

    def close(self) -> None:
        self.channel.close()
        self.connection.close()


def open_ssh(target: Target, opening: str, nonce: str, known_hosts: Path | None = None) -> Session:
    connection = connect(target, known_hosts)
    try:
        program = packed(opening)
        channel = SshChannel(connection, len(program), sudo=target.sudo)
        channel.write(program)
    except (paramiko.SSHException, OSError, EOFError) as problem:
        connection.close()
        raise HostLost(f"{target.name}: the server opened no session ({problem})") from None
    key = _fingerprint(connection.transport.get_remote_server_key())
    return Session(target.name, channel, nonce, key).hello()


def _stay_awake(transport: paramiko.Transport) -> None:
    transport.set_keepalive(3)
    if isinstance(transport.sock, socket.socket):  # not behind a ProxyCommand
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_AFTER_MS)


def _stranger(
    problem: paramiko.BadHostKeyException | UnknownHostKey, target: Target, connection: Connection, revoked: set[str]
) -> tuple[str, str]:
    """(what is wrong with the key a server showed, what to do)."""
    key, told = problem.key, f"{target.name}: the host key of {connection.host}"
    if key.get_base64() in revoked:
        return f"{told} is revoked ({_fingerprint(key)})", "do not go on: somebody may have that server's old key"
    if isinstance(problem, UnknownHostKey):
        return (
            f"{told} is not known ({_fingerprint(key)})",
            "compare it on the server's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then set "
            f"host_key in releases.toml, or: ssh -p {connection.port} {target.user}@{connection.host}",
        )
    return (
        f"{told} is not the one known ({_fingerprint(key)} now)",
        "if the server was rebuilt, compare it on its console, then change host_key or known_hosts; otherwise stop",
    )


def _trust(connection: Connection, target: Target, known_hosts: Path) -> set[str]:
    """Tells the connection which keys are good; the answer is those that never are, for whatever host."""
    port = connection.port or 22
    name = connection.host if port == 22 else f"[{connection.host}]:{port}"
    keys = connection.client.get_host_keys()
    entries = [entry for path in (known_hosts, Path("/etc/ssh/ssh_known_hosts")) for entry in _entries(path)]
    revoked = {entry.key.get_base64() for marker, entry in entries if marker == "@revoked"}
    good = [(one, entry.key) for marker, entry in entries if not marker for one in entry.hostnames]
    if target.host_key:
        kind, _, text = target.host_key.partition(" ")
        good = [(name, _key(target, kind, text))]
    for one, key in good:
        if key.get_base64() not in revoked:
            keys.add(one, key.get_name(), key)
    return revoked


def _entries(path: Path) -> list[tuple[str, HostKeyEntry]]:
    """(marker, line) of what paramiko understands: a line it does not must not lock everybody out.

    Certificate authorities are left out: paramiko does not check certificates.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        marker, rest = line.split(maxsplit=1) if line.startswith("@") and " " in line else ("", line)
        if not rest.strip() or rest.lstrip().startswith("#") or marker not in ("", "@revoked"):
            continue
        try:
            entry = HostKeyEntry.from_line(rest)
        except (InvalidHostKey, ValueError, binascii.Error):
            continue
        if entry is not None:
            found.append((marker, entry))
    return found


def _key(target: Target, kind: str, text: str) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_type_string(kind, base64.b64decode(text.split()[0]))
    except (paramiko.SSHException, binascii.Error, IndexError, ValueError, paramiko.UnknownKeyType):
        raise UsageError(f"{target.name}: host_key is not a public key", 'as in "ssh-ed25519 AAAA..."') from None


def _fingerprint(key: paramiko.PKey) -> str:
    return str(key.fingerprint)
