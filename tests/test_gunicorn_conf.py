"""What a user fears of a web start: traffic sent to workers that never loaded the application."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .programs_venv import (
    RELEASE,
    NotifySocket,
    build_release,
    launch,
    programs_venv,  # noqa: F401
    short_folder,  # noqa: F401
)

APPLICATION = """
import os, time
time.sleep(float(os.environ.get("SLOW", "0")))
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Seen", environ.get("HTTP_X_RELEASE_PROBE", ""))])
    return [str(os.getpid()).encode()]
"""
# What systemd does: the socket is file descriptor 3, LISTEN_PID is the process that execs.
SYSTEMD = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(64)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Web:
    def __init__(self, folder: Path, venv: Path, application: str = APPLICATION, **service: object) -> None:
        self.socket = folder / "web.sock"
        facts = {"kind": "web", "bind": "", **service}
        self.root = build_release(folder, venv, {"web": facts})
        (self.root / "app" / "shop.py").write_text(application)
        self._folder = folder

    def start(self, *, by_systemd: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        command = launch(self.root, "run", "web")
        if by_systemd:
            command = [sys.executable, "-c", SYSTEMD, str(self.socket), *command]
        variables = {"PATH": os.environ["PATH"], "HOME": str(self._folder), **environment}
        return subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)

    def ask(self, *headers: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall("\r\n".join(["GET / HTTP/1.1", "Host: x", *headers, "", ""]).encode())
            return connection.recv(65536).decode()


@contextmanager
def running(web: Web, notify: NotifySocket, **options: object) -> Iterator[str | None]:
    """The service's READY message, while it runs."""
    process = web.start(NOTIFY_SOCKET=notify.path, **options)
    try:
        yield notify.message(20)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_ready_is_said_once_and_by_the_last_worker(short_folder: Path, programs_venv: Path, worker_class: str) -> None:  # noqa: F811
    command = ["gunicorn", "-k", worker_class, "-w", "2", "shop:application"]
    web = Web(short_folder, programs_venv, command=command)
    with NotifySocket(short_folder) as notify, running(web, notify, SLOW="0.3") as message:
        assert message == "READY=1\nSTATUS=2 workers loaded"
        assert "200 OK" in web.ask()
        assert notify.message(0.3) is None


def test_ready_is_never_said_for_an_application_that_does_not_load(short_folder: Path, programs_venv: Path) -> None:  # noqa: F811
    web = Web(short_folder, programs_venv, "import no_such_module", command=["gunicorn", "-w", "2", "shop:application"])
    with NotifySocket(short_folder) as notify:
        process = web.start(NOTIFY_SOCKET=notify.path)
        assert process.wait(20) != 0
        assert notify.message(0.1) is None


def test_the_release_is_named_to_a_probe_and_to_nobody_else(short_folder: Path, programs_venv: Path) -> None:  # noqa: F811
    web = Web(short_folder, programs_venv, command=["gunicorn", "-w", "1", "shop:application"])
    with NotifySocket(short_folder) as notify, running(web, notify):
        assert f"X-Release: {RELEASE}" in web.ask("X-Release-Probe: 1")
        assert RELEASE not in web.ask()
        assert RELEASE not in web.ask("X-Release-Probe: yes")


OWN_CONFIGURATION = """
import json
bind = "127.0.0.1:1"
workers = 2
worker_class = "gthread"
proc_name = "own"
keepalive = 7
control_socket_disable = False
def post_worker_init(worker):
    with open("loaded", "a") as file:
        file.write("x")
def when_ready(server):
    names = ("workers", "worker_class_str", "proc_name", "keepalive", "control_socket_disable", "graceful_timeout")
    with open("settings.json", "w") as file:
        json.dump({**{name: getattr(server.cfg, name) for name in names}, "bind": server.cfg.bind}, file)
"""


@pytest.mark.parametrize(("file", "option"), [("gunicorn.conf.py", []), ("own.py", ["-c", "own.py"])])
def test_the_own_configuration_is_kept_but_for_the_socket(
    short_folder: Path,  # noqa: F811
    programs_venv: Path,  # noqa: F811
    file: str,
    option: list[str],
) -> None:
    command = ["gunicorn", *option, "--workers", "3", "shop:application"]
    web = Web(short_folder, programs_venv, command=command)
    (web.root / "app" / file).write_text(OWN_CONFIGURATION)
    with NotifySocket(short_folder) as notify, running(web, notify) as message:
        assert message == "READY=1\nSTATUS=3 workers loaded"  # the command line wins
        assert (web.root / "app" / "loaded").read_text() == "xxx"
        found = json.loads((web.root / "app" / "settings.json").read_text())
    assert (found["worker_class_str"], found["proc_name"], found["keepalive"]) == ("gthread", "own", 7)
    assert found["control_socket_disable"] is True
    assert found["graceful_timeout"] == 30
    assert "127.0.0.1:1" not in found["bind"]


@pytest.mark.parametrize(
    ("environment", "workers"), [({}, 2 * len(os.sched_getaffinity(0)) + 1), ({"WEB_CONCURRENCY": "1"}, 1)]
)
def test_the_number_of_workers_is_chosen_only_when_nobody_said(
    short_folder: Path,  # noqa: F811
    programs_venv: Path,  # noqa: F811
    environment: dict[str, str],
    workers: int,
) -> None:
    web = Web(short_folder, programs_venv, command=["gunicorn", "shop:application"])
    with NotifySocket(short_folder) as notify, running(web, notify, **environment) as message:
        assert message == f"READY=1\nSTATUS={workers} workers loaded"


def test_behind_the_relay_a_connection_is_not_kept(short_folder: Path, programs_venv: Path) -> None:  # noqa: F811
    command = ["gunicorn", "-k", "gthread", "-w", "1", "shop:application"]
    web = Web(short_folder, programs_venv, command=command, bind=str(short_folder / "web.sock"))
    with NotifySocket(short_folder) as notify, running(web, notify, by_systemd=False) as message:
        assert message
        assert "Connection: close" in web.ask("Connection: keep-alive")
