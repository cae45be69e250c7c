"""What a user fears of a worker: one that runs, is called ready, and does none of the tasks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
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

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")

APPLICATION = """
import os
from celery import Celery
from kombu import Queue
app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
pairs = [("shop.mail.*", {"queue": "mail"}), ("shop.print", {"queue": Queue("labels")})]
app.conf.task_routes = (pairs, {"shop.sms": "sms"})
app.conf.beat_schedule = {"nightly": {"task": "shop.add", "schedule": 3600, "options": {"queue": "nightly"}}}
app.conf.worker_enable_remote_control = os.environ.get("REMOTE", "1") == "1"

@app.task(queue="accounts")
def add(one, two):
    return one + two

@app.task(queue="mail")
def imported():
    import sys
    return [name for name in ("project", "probe", "launch") if name in sys.modules or any(
        os.path.exists(os.path.join(folder, name + ".py")) for folder in sys.path)]
"""
DEAF = """
import time
from celery.worker.control import Panel
Panel.data["ping"] = lambda *_, **__: time.sleep(4)
"""
ROUTED = "routed=accounts,celery,labels,mail,nightly,sms"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis of our own, on loopback, that keeps nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end, "Redis does not listen"
            time.sleep(0.05)
        else:
            return


class Worker:
    def __init__(self, folder: Path, venv: Path, *options: str) -> None:
        command = ["celery", "-A", "shop", "worker", "-l", "info", "-c", "1", *options]
        self.root = build_release(folder, venv, {"worker": {"kind": "worker", "command": command}})
        (self.root / "app" / "shop.py").write_text(APPLICATION)
        self.log = folder / "log"

    def environment(self, broker: str, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.root), "BROKER": broker, **more}

    @contextmanager
    def running(self, broker: str, **more: str) -> Iterator[None]:
        with self.log.open("wb") as log:
            command = launch(self.root, "run", "worker")
            process = subprocess.Popen(command, env=self.environment(broker, **more), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    def result(self, broker: str, expression: str) -> str:
        code = f"import shop; print({expression})"
        command = launch(self.root, "exec", "--", "python", "-c", code)
        done = subprocess.run(command, env=self.environment(broker), capture_output=True, text=True, check=True)
        return done.stdout.strip()


def test_ready_names_the_queues_that_nobody_serves(short_folder: Path, programs_venv: Path, redis: int) -> None:  # noqa: F811
    worker, broker = Worker(short_folder, programs_venv, "-Q", "accounts,mail"), f"redis://127.0.0.1:{redis}/0"
    with NotifySocket(short_folder) as notify, worker.running(broker, NOTIFY_SOCKET=notify.path):
        assert notify.message(40) == f"READY=1\nSTATUS=queues=accounts,mail {ROUTED}"
        asked = "shop.add.delay(1, 2).get(timeout=20), shop.imported.delay().get(timeout=20)"
        assert worker.result(broker, f"({asked}, [*shop.app.control.ping(limit=1, timeout=9)[0]])").startswith(
            f"(3, [], ['worker-{RELEASE}@"
        )


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_every_pool_can_answer_itself(short_folder: Path, programs_venv: Path, redis: int, pool: str) -> None:  # noqa: F811
    worker, broker = Worker(short_folder, programs_venv, "-P", pool), f"redis://127.0.0.1:{redis}/1"
    with NotifySocket(short_folder) as notify, worker.running(broker, NOTIFY_SOCKET=notify.path):
        assert notify.message(40) == f"READY=1\nSTATUS=queues=celery {ROUTED}"


def test_without_a_service_manager_it_is_only_logged(short_folder: Path, programs_venv: Path, redis: int) -> None:  # noqa: F811
    worker, broker = Worker(short_folder, programs_venv, "-P", "solo"), f"redis://127.0.0.1:{redis}/2"
    with worker.running(broker):
        end = time.monotonic() + 40
        while "ready: worker-" not in worker.log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
    lines = [line for line in worker.log.read_text().splitlines() if "ready: worker-" in line]
    assert len(lines) == 1
    assert f"queues=celery {ROUTED}" in lines[0]


def test_a_worker_without_a_broker_is_never_ready(short_folder: Path, programs_venv: Path) -> None:  # noqa: F811
    worker = Worker(short_folder, programs_venv, "-P", "solo")
    with NotifySocket(short_folder) as notify, worker.running("redis://127.0.0.1:1/0", NOTIFY_SOCKET=notify.path):
        assert notify.message(4) is None
    assert "Cannot connect" in worker.log.read_text()


def test_a_worker_that_does_not_answer_is_not_ready(short_folder: Path, programs_venv: Path, redis: int) -> None:  # noqa: F811
    worker, broker = Worker(short_folder, programs_venv, "-P", "solo"), f"redis://127.0.0.1:{redis}/3"
    program = worker.root / ".release" / "celery_ready.py"
    program.write_text(program.read_text().replace("PATIENCE = 20", "PATIENCE = 1"))
    with (worker.root / "app" / "shop.py").open("a") as file:
        file.write(DEAF)
    with NotifySocket(short_folder) as notify, worker.running(broker, NOTIFY_SOCKET=notify.path):
        end = time.monotonic() + 30
        while "not ready:" not in worker.log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
        assert notify.message(0.1) is None
    assert "did not answer a ping" in worker.log.read_text()


def test_a_worker_told_not_to_answer_is_believed(short_folder: Path, programs_venv: Path, redis: int) -> None:  # noqa: F811
    worker, broker = Worker(short_folder, programs_venv, "-P", "solo"), f"redis://127.0.0.1:{redis}/4"
    with NotifySocket(short_folder) as notify, worker.running(broker, NOTIFY_SOCKET=notify.path, REMOTE="0"):
        message = notify.message(40)
        assert message
        assert message.startswith("READY=1\n")
