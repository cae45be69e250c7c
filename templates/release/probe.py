"""Asks a web application until it is well or the deadline has passed, and says which release answered.

    /usr/bin/python3 -IS probe.py REQUEST_JSON      `-` reads the request from stdin: headers nobody may see in `ps`

Prints one line {"ok", "status", "release", "ms", "tries", "detail"}; exit 0 well, 1 not, 2 for a senseless request.
HTTP is spoken by hand, in version 1.0 as nginx speaks to its upstreams: http.client would triple the start-up time.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

DEFAULTS = {  # beside "url", which has none
    "socket": None,  # path of a unix socket to connect to
    "connect": "",  # host:port to connect to instead of the URL's: the local nginx for a public name
    "host": "",  # Host header and TLS name instead of the URL's
    "insecure": False,  # do not verify TLS; for local addresses only
    "headers": {},
    "expect": [200],
    "contains": "",
    "release": "",  # the id that has to answer
    "successes": 1,  # in a row
    "deadline": 30,  # seconds for everything
    "timeout": 5,  # seconds for one try
    "interval": 0.2,  # seconds between tries
}
URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^/:?#\s]+)(?::(\d+))?(/[^#\s]*)?\Z")
MOST_BYTES = 1 << 20  # of an answer that are read
LONGEST_SOCKET_PATH = 107  # bytes; sockaddr_un holds 108 with the zero at the end


class Senseless(Exception):
    """The request cannot be asked at all."""


class Answer(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: bytes


class Outcome(NamedTuple):
    ok: bool
    status: Optional[int]
    release: Optional[str]
    detail: str


class Target(NamedTuple):
    secure: bool
    address: Tuple[str, int]
    host: str  # as the Host header says it
    path: str


def host_and_port(text: str, default: int) -> Tuple[str, int]:
    name, _, port = text.rpartition(":") if re.search(r":\d+\Z", text) else (text, "", str(default))
    return name.strip("[]"), int(port)


def target(request: dict) -> Target:
    match = URL.match(str(request.get("url")))
    if match is None:
        raise Senseless("The url must look like http://host:port/path.")
    secure = match[1] == "https"
    named = match[2] + (":" + match[3] if match[3] else "")
    address = host_and_port(request["connect"] or named, 443 if secure else 80)
    if request["insecure"] and not re.match(r"127\.|::1\Z|localhost\Z", address[0]):
        raise Senseless("insecure is for local addresses only, not for %s." % address[0])
    found = Target(secure, address, request["host"] or named, match[4] or "/")
    for text in (found.host, *request["headers"], *request["headers"].values()):
        if re.search(r"[\r\n\0]", str(text)):
            raise Senseless("A header cannot hold a line break.")
    return found


def connected(request: dict, to: Target, timeout: float) -> socket.socket:
    if not request["socket"]:
        return socket.create_connection(to.address, timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    path = os.path.abspath(request["socket"])
    try:
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            os.chdir(os.path.dirname(path))
            request["socket"], path = path, os.path.basename(path)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def secured(connection: socket.socket, to: Target, insecure: bool) -> socket.socket:
    import ssl

    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=host_and_port(to.host, 443)[0])


def question(request: dict, to: Target) -> bytes:
    headers = {"Host": to.host, "User-Agent": "release-probe", "Accept": "*/*", "Connection": "close"}
    headers.update({name.title(): str(value) for name, value in request["headers"].items()})
    headers["X-Release-Probe"] = "1"
    lines = ["GET %s HTTP/1.0" % to.path, *("%s: %s" % header for header in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def read_answer(connection: socket.socket, end: float) -> bytes:
    """Everything until the server closes; the time is for the whole answer, not for a piece of it."""
    raw = b""
    while len(raw) < MOST_BYTES:
        connection.settimeout(max(end - time.monotonic(), 0.001))
        piece = connection.recv(65536)
        if not piece:
            break
        raw += piece
        if time.monotonic() > end:
            raise socket.timeout
    return raw


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    match = re.match(r"HTTP/\d(?:\.\d)? (\d{3})", first)
    if match is None:
        raise ValueError("it closed the connection without an answer" if not raw else "its answer is not HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Answer(int(match[1]), headers, body)


def ask(request: dict, to: Target, end: float) -> Answer:
    with connected(request, to, max(end - time.monotonic(), 0.001)) as plain:
        connection = secured(plain, to, request["insecure"]) if to.secure else plain
        with connection:
            connection.sendall(question(request, to))
            return parsed(read_answer(connection, end))


def one_line(body: bytes) -> str:
    text = " ".join(body[:200].decode("utf-8", "replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def released(answer: Answer, wanted: str) -> Optional[str]:
    """The header, or the wanted id when the page itself shows it."""
    in_page = bool(wanted) and wanted.encode() in answer.body
    return answer.headers.get("x-release") or (wanted if in_page else None)


ENCRYPTED_ELSEWHERE = (
    "; the application wants https for it: where TLS ends before this server, name who ends it in [nginx] "
    "trusted_proxies and send X-Forwarded-Proto in [health] headers, or exempt the path in SECURE_REDIRECT_EXEMPT"
)


def described(answer: Answer, to: Target) -> str:
    text = "HTTP %d" % answer.status
    where = one_line(answer.headers.get("location", "").encode())
    if where:
        text += " to " + where
    if not to.secure and where == "https://" + to.host + to.path:
        text += ENCRYPTED_ELSEWHERE
    if answer.status == 400 and (b"Bad Request (400)" in answer.body or b"DisallowedHost" in answer.body):
        text += "; if this is Django refusing the name, add %s to ALLOWED_HOSTS" % host_and_port(to.host, 0)[0]
    return text + (": " + one_line(answer.body) if answer.body.strip() else "")


def judged(answer: Answer, request: dict, to: Target) -> Outcome:
    release = released(answer, request["release"])
    complaint = ""
    if answer.status not in request["expect"]:
        complaint = "expected HTTP %s" % " or ".join(map(str, request["expect"]))
    elif request["contains"] and request["contains"].encode() not in answer.body:
        complaint = "the page does not contain what it should"
    elif request["release"] and release is None:
        complaint = "it did not say which release it is"
    elif request["release"] and release != request["release"]:
        complaint = "answered by another release, %s" % release
    detail = described(answer, to)
    return Outcome(not complaint, answer.status, release, "%s; %s" % (complaint, detail) if complaint else detail)


def attempt(request: dict, to: Target, end: float) -> Outcome:
    where = request["socket"] or "%s:%d" % to.address
    try:
        return judged(ask(request, to, end), request, to)
    except socket.timeout:
        return Outcome(False, None, None, "timed out waiting for %s" % where)
    except ConnectionRefusedError:
        return Outcome(False, None, None, "connection refused by %s: nothing listens there" % where)
    except FileNotFoundError:
        return Outcome(False, None, None, "there is no socket %s" % where)
    except (OSError, ValueError) as error:
        return Outcome(False, None, None, "%s: %s" % (where, one_line(str(error).encode())))


def probe(request: dict) -> dict:
    to, begun = target(request), time.monotonic()
    deadline, tries, in_a_row = begun + request["deadline"], 0, 0
    while True:
        started, tries = time.monotonic(), tries + 1
        outcome = attempt(request, to, min(started + request["timeout"], max(deadline, started + 0.1)))
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        in_a_row = in_a_row + 1 if outcome.ok else 0
        done = in_a_row >= request["successes"]
        if done or time.monotonic() + request["interval"] >= deadline:
            result = outcome._replace(ok=done)._asdict()
            return {**result, "ms": milliseconds, "tries": tries}
        time.sleep(request["interval"])


def complete(text: str) -> dict:
    given = json.loads(text)
    unknown = set(given) - set(DEFAULTS) - {"url"}
    if unknown:
        raise Senseless("The request has unknown names: %s." % ", ".join(sorted(unknown)))
    return {**DEFAULTS, **given}


def main(arguments: List[str]) -> int:
    try:
        result = probe(complete(sys.stdin.read() if arguments == ["-"] else arguments[0]))
    except Senseless as wrong:
        print(wrong, file=sys.stderr)
        return 2
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        print("The request is not the JSON it should be (%s)." % type(error).__name__, file=sys.stderr)
        return 2
    print(json.dumps({name: result[name] for name in ("ok", "status", "release", "ms", "tries", "detail")}))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
