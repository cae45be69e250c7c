"""What a user fears of a health check: one that praises the wrong release, hangs, or does not say what is wrong."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .programs_venv import PROGRAMS, RELEASE, short_folder  # noqa: F401

WELL = f"HTTP/1.0 200 OK\r\nX-Release: {RELEASE}\r\n\r\nall is well".encode()
QUICK = {"deadline": 0.3, "timeout": 5}


class Server:
    """Answers each connection with the next of its answers (the last for ever) and keeps what it was asked."""

    def __init__(self, listener: socket.socket, answers: list[bytes], context: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        self.names: list[str | None] = []
        self._listener, self._answers, self._context = listener, answers, context
        if context:
            context.sni_callback = lambda _, name, __: self.names.append(name)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for number in range(1000):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._answer(connection, self._answers[min(number, len(self._answers) - 1)])
            except OSError:
                connection.close()

    def _answer(self, connection: socket.socket, answer: bytes) -> None:
        if self._context:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            self.asked.append(connection.recv(65536).decode())
            connection.sendall(answer)


@contextmanager
def serving(
    *answers: bytes, path: Path | None = None, context: ssl.SSLContext | None = None, kind: type[Server] | None = None
) -> Iterator[tuple[Server, int]]:
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen(16)
    try:
        yield (kind or Server)(listener, list(answers), context), 0 if path else listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def probed(expected: int = 0, **request: object) -> dict:
    command = [sys.executable, "-IS", str(PROGRAMS / "probe.py"), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (expected, "")
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["ok"] is (expected == 0)
    return found


def test_a_release_behind_its_own_socket_is_asked_as_its_visitors_ask(short_folder: Path) -> None:  # noqa: F811
    path = short_folder / "s"
    with serving(WELL, path=path) as (server, _):
        found = probed(
            socket=str(path),
            url="http://localhost/healthz?deep=1",
            host="shop.example.com",
            headers={"X-Forwarded-Proto": "https"},
            release=RELEASE,
            contains="well",
        )
    assert (found["status"], found["release"], found["tries"]) == (200, RELEASE, 1)
    lines = server.asked[0].split("\r\n")
    assert lines[0] == "GET /healthz?deep=1 HTTP/1.0"
    assert {"Host: shop.example.com", "X-Forwarded-Proto: https", "X-Release-Probe: 1"} <= set(lines)


DEEP_SERVER = r"""
import os, socket, sys
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("web.sock")
listener.listen()
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(9999)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    connection.close()
"""


def test_a_socket_deep_in_folders_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    server = subprocess.Popen([sys.executable, "-c", DEEP_SERVER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert server.stdout
        server.stdout.readline()
        probed(socket=str(folder / "web.sock"), url="http://localhost/", successes=2)
    finally:
        server.kill()
        server.communicate()


def test_a_slow_start_is_waited_for(short_folder: Path) -> None:  # noqa: F811
    with serving(b"HTTP/1.0 503 No\r\n\r\n", b"", WELL) as (_, port):
        assert probed(url=f"http://127.0.0.1:{port}/", deadline=20)["tries"] == 3


def test_one_good_answer_among_bad_ones_is_not_enough() -> None:
    with serving(WELL, b"HTTP/1.0 500 No\r\n\r\n", WELL, WELL) as (_, port):
        assert probed(url=f"http://127.0.0.1:{port}/", successes=2, interval=0.01)["tries"] == 4


@pytest.mark.parametrize(
    ("answer", "request_", "says"),
    [
        (b"HTTP/1.0 500 Error\r\n\r\n<h1>Server\n  Error</h1>\x1b[2J", {}, "HTTP 500: <h1>Server Error</h1>?[2J"),
        (b"HTTP/1.0 301 No\r\nLocation: https://a.example/\r\n\r\n", {"host": "a.example"}, "SECURE_REDIRECT_EXEMPT"),
        (
            b"HTTP/1.0 400 Bad\r\n\r\n<h1>Bad Request (400)</h1>",
            {"host": "a.example"},
            "add a.example to ALLOWED_HOSTS",
        ),
        (b"HTTP/1.0 301 Moved\r\nLocation: https://a/\r\n\r\n", {}, "expected HTTP 200; HTTP 301 to https://a/"),
        (WELL, {"contains": "something else"}, "does not contain"),
        (WELL, {"release": "20261122-999999-0000000"}, f"another release, {RELEASE}"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", {"release": RELEASE}, "did not say which release"),
        (b"", {}, "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", {}, "not HTTP"),
    ],
)
def test_what_is_wrong_is_said_for_a_human(answer: bytes, request_: dict, says: str) -> None:
    with serving(answer) as (_, port):
        found = probed(1, url=f"http://127.0.0.1:{port}/", **QUICK, **request_)
    assert says in found["detail"]
    assert "\n" not in found["detail"]


def test_a_release_may_name_itself_in_the_page() -> None:
    with serving(b"HTTP/1.0 404 No\r\n\r\nversion " + RELEASE.encode()) as (_, port):
        assert probed(url=f"http://127.0.0.1:{port}/", release=RELEASE, expect=[200, 404])["release"] == RELEASE


def test_nobody_listening_is_told_from_nobody_answering(short_folder: Path) -> None:  # noqa: F811
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert "connection refused" in probed(1, url=url, **QUICK)["detail"]
        listener.listen()
        assert "timed out" in probed(1, url=url, deadline=0.1, timeout=0.2)["detail"]
    missing = probed(1, url="http://x/", socket=str(short_folder / "missing"), **QUICK)
    assert "there is no socket" in missing["detail"]


class TricklingServer(Server):
    def _answer(self, connection: socket.socket, answer: bytes) -> None:
        with connection:
            for number in range(200):
                connection.sendall(answer[number : number + 1] or b" ")
                time.sleep(0.1)


def test_an_answer_that_trickles_does_not_hold_a_deployment() -> None:
    with serving(WELL, kind=TricklingServer) as (_, port):
        assert "timed out" in probed(1, url=f"http://127.0.0.1:{port}/", deadline=0.1, timeout=0.5)["detail"]


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    names = ["-subj", "/CN=shop.example.com", "-addext", "subjectAltName=DNS:shop.example.com"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context


def test_the_local_front_door_is_asked_for_the_public_name(certificate: ssl.SSLContext) -> None:
    with serving(WELL, context=certificate) as (server, port):
        local = {"url": "https://shop.example.com/", "connect": f"127.0.0.1:{port}"}
        probed(**local, insecure=True, release=RELEASE)
        assert server.names == ["shop.example.com"]
        assert "certificate verify failed" in probed(1, **local, **QUICK)["detail"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"url": "ftp://x/"}, "must look like"),
        ({"url": "https://shop.example.com/", "insecure": True}, "local addresses only"),
        ({"url": "http://127.0.0.1/", "headers": {"X": "a\r\nY: b"}}, "line break"),
        ({"url": "http://127.0.0.1/", "tries": 3}, "unknown names: tries"),
        ([], "not the JSON"),
    ],
)
def test_a_senseless_request_is_refused(request_: object, says: str) -> None:
    command = [sys.executable, "-IS", str(PROGRAMS / "probe.py"), "-"]
    done = subprocess.run(command, input=json.dumps(request_), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_starting_costs_neither_tls_nor_an_http_library() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-ISc", code, str(PROGRAMS / "probe.py")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"ssl", "email", "http.client", "urllib.request", "asyncio"} & set(loaded)
