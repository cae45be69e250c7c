"""Servers over SSH, by Fabric's connections: strict about host keys, quick to notice a dead link, one channel each."""

from __future__ import annotations

import base64
import binascii
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from ..model.errors import HostLost, UsageError
from .session import Session, command_line

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


class Connection(fabric.Connection):
    """Fabric's own accepts any host key, even a changed one (fabric#1804, #2071)."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())


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
    _trust(connection, target, known_hosts or Path("~/.ssh/known_hosts").expanduser())
    try:
        connection.open()
    except paramiko.BadHostKeyException as problem:
        raise HostLost(
            f"{target.name}: the host key of {connection.host} is not the one known ({_fingerprint(problem.key)} now)",
            "if the server was rebuilt, check its key on its console, then change host_key or known_hosts; otherwise stop",
        ) from None
    except paramiko.AuthenticationException as problem:
        raise HostLost(
            f"{target.name}: {target.user} is not let in at {connection.host}:{connection.port} ({problem})",
            f"try: ssh -p {connection.port} {target.user}@{connection.host} true",
        ) from None
    except paramiko.SSHException as problem:
        unknown = "not found in known_hosts" in str(problem)
        hint = f"compare its key on its console, then: ssh -p {connection.port} {target.user}@{connection.host}, or set host_key"
        raise HostLost(
            f"{target.name}: " + (f"the host key of {connection.host} is not known" if unknown else f"SSH: {problem}"),
            hint if unknown else "",
        ) from None
    except (OSError, EOFError, ValueError, KeyError) as problem:
        raise HostLost(
            f"{target.name}: no connection to {connection.host}:{connection.port} ({problem or type(problem).__name__})",
            "is the address right, the server up, the port open?",
        ) from None
    _stay_awake(connection.transport)
    return connection


class SshChannel:
    def __init__(self, connection: Connection, size: int) -> None:
        self.connection = connection
        self.channel = connection.transport.open_session(timeout=20)
        self.channel.set_combine_stderr(True)
        self.channel.exec_command(command_line(size))

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
        channel = SshChannel(connection, len(opening.encode()))
        channel.write(opening.encode())
    except (paramiko.SSHException, OSError, EOFError) as problem:
        connection.close()
        raise HostLost(f"{target.name}: the server opened no session ({problem})") from None
    return Session(target.name, channel, nonce).hello()


def _stay_awake(transport: paramiko.Transport) -> None:
    transport.set_keepalive(3)
    if isinstance(transport.sock, socket.socket):  # not behind a ProxyCommand
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_AFTER_MS)


def _trust(connection: Connection, target: Target, known_hosts: Path) -> None:
    port = connection.port or 22
    name = connection.host if port == 22 else f"[{connection.host}]:{port}"
    keys = connection.client.get_host_keys()
    if target.host_key:
        kind, _, text = target.host_key.partition(" ")
        keys.add(name, kind, _key(target, kind, text))
        return
    for path in (known_hosts, Path("/etc/ssh/ssh_known_hosts")):
        for entry in _entries(path):
            for one in entry.hostnames:
                keys.add(one, entry.key.get_name(), entry.key)


def _entries(path: Path) -> list[HostKeyEntry]:
    """The lines paramiko understands: one it does not (a certificate authority) must not lock everybody out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        if line.strip() and not line.lstrip().startswith(("#", "@")):
            try:
                entry = HostKeyEntry.from_line(line)
            except (InvalidHostKey, ValueError, binascii.Error):
                continue
            if entry is not None:
                found.append(entry)
    return found


def _key(target: Target, kind: str, text: str) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_type_string(kind, base64.b64decode(text.split()[0]))
    except (paramiko.SSHException, binascii.Error, IndexError, ValueError, paramiko.UnknownKeyType):
        raise UsageError(f"{target.name}: host_key is not a public key", 'as in "ssh-ed25519 AAAA..."') from None


def _fingerprint(key: paramiko.PKey) -> str:
    return str(key.fingerprint)
