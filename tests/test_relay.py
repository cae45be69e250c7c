"""What a user fears of the sandbox's front door: a request lost while one release takes over from another."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .programs_venv import PROGRAMS

RELAY = PROGRAMS.parent / "relay.py"
# A release: answers with its name, finishes what it has accepted or finds in its queue when told to stop.
SERVER = r"""
import os, signal, socket, sys, threading, time
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("web.sock")
listener.listen(64)
stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
listener.settimeout(0.05)
print("up", flush=True)
def answer(connection):
    with connection:
        head = piece = connection.recv(65536)
        while piece and b"\r\n\r\n" not in head:
            head += (piece := connection.recv(65536))
        if not piece:
            return
        head, _, body = head.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        while piece and len(body) < length:
            body += (piece := connection.recv(65536))
        time.sleep(0.02)
        page = os.path.basename(os.getcwd()).encode() + b" " + str(len(body)).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
threads = []
while True:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        if stopping.is_set():
            break
        continue
    connection.settimeout(10)
    threads.append(threading.Thread(target=answer, args=[connection]))
    threads[-1].start()
for thread in threads:
    thread.join()
"""


@pytest.fixture
def deploy_to(tmp_path: Path) -> Path:
    """Deeper than a unix socket's path may be."""
    folder = tmp_path / ("deep" * 20) / "site"
    folder.mkdir(parents=True)
    return folder


@contextmanager
def release(deploy_to: Path, name: str) -> Iterator[None]:
    folder = deploy_to / "releases" / name
    folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        assert process.wait() == 0, "the release did not finish"


def switch(deploy_to: Path, name: str) -> None:
    (deploy_to / "next").symlink_to(f"releases/{name}")
    os.rename(deploy_to / "next", deploy_to / "current")  # noqa: PTH104  # Path.rename reads the same; this is rename(2)


@pytest.fixture
def relay(deploy_to: Path) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(RELAY), str(port), str(deploy_to)])
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end, "the relay does not listen"
            time.sleep(0.05)
        else:
            return


def asked(port: int, body: bytes = b"") -> str:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        raw = b""
        while piece := connection.recv(65536):
            raw += piece
    return raw.decode()


def test_no_request_is_lost_while_releases_take_over(deploy_to: Path, relay: int) -> None:
    answers: list[str] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.is_set():
            answers.append(asked(relay, b"x" * 1000))

    with release(deploy_to, "one"):
        switch(deploy_to, "one")
        visitors = [threading.Thread(target=visit) for _ in range(3)]
        for visitor in visitors:
            visitor.start()
        time.sleep(0.5)
        with release(deploy_to, "two"):
            switch(deploy_to, "two")
            time.sleep(0.5)
            switch(deploy_to, "one")
            time.sleep(0.3)
        time.sleep(0.3)
        stop.set()
        for visitor in visitors:
            visitor.join()
    pages = [answer.rpartition("\r\n\r\n")[2] for answer in answers]
    assert set(pages) == {"one 1000", "two 1000"}
    assert all(answer.startswith("HTTP/1.1 200") for answer in answers)


def test_large_bodies_arrive_whole(deploy_to: Path, relay: int) -> None:
    with release(deploy_to, "one"):
        switch(deploy_to, "one")
        assert asked(relay, b"x" * 3_000_000).endswith("one 3000000")


def test_a_visitor_who_has_said_everything_is_still_answered(deploy_to: Path, relay: int) -> None:
    with release(deploy_to, "one"):
        switch(deploy_to, "one")
        with socket.create_connection(("127.0.0.1", relay), 20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536).endswith(b"one 0")


def test_nothing_released_yet_is_said_on_a_page(relay: int) -> None:
    answer = asked(relay)
    assert answer.startswith("HTTP/1.1 503")
    assert "No release is running" in answer


def test_a_release_that_is_being_replaced_is_waited_for(deploy_to: Path, relay: int) -> None:
    switch(deploy_to, "one")
    answers: list[str] = []
    visitor = threading.Thread(target=lambda: answers.append(asked(relay)))
    visitor.start()
    with release(deploy_to, "one"):
        visitor.join()
    assert answers[0].endswith("one 0")


def test_a_taken_port_is_one_sentence(deploy_to: Path, relay: int) -> None:
    command = [sys.executable, str(RELAY), str(relay), str(deploy_to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot listen on 127.0.0.1:{relay}: ")
    assert done.stderr.count("\n") == 1
