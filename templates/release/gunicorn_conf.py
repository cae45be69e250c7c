"""Makes gunicorn say READY only when every worker has loaded the application, and name the release to a probe.

gunicorn itself tells systemd READY=1 before any worker has imported anything: a release that cannot start looks well.
The application's own gunicorn configuration (the one its command names, else gunicorn.conf.py in the working directory)
is loaded first and keeps everything but `bind`: the socket is the release's. The command line still wins over both.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import socket
import struct
import termios

_RELEASE = os.environ.get("RELEASE_ID", "")
_NOTIFY = os.environ.pop("NOTIFY_SOCKET", None)  # before anybody else, gunicorn included, can say READY too early
_WSGI_WORKERS = {
    ("gunicorn.workers.sync", "SyncWorker"),
    ("gunicorn.workers.gthread", "ThreadWorker"),
    ("gunicorn.workers.base_async", "AsyncWorker"),  # gevent and eventlet
}

# A pipe inherited by every worker counts them, without a lock: each writes a byte, the kernel says how many lie there.
_LOADED = os.pipe()
os.set_blocking(_LOADED[1], False)


def _application_settings():
    """The names the application's own configuration defines; {} without one."""
    given = os.environ.get("RELEASE_GUNICORN_CONFIG", "")
    if given.startswith("python:"):
        return dict(vars(importlib.import_module(given[len("python:") :])))
    path = given[len("file:") :] if given.startswith("file:") else given or "gunicorn.conf.py"
    if not given and not os.path.isfile(path):
        return {}
    settings = {"__file__": os.path.abspath(path), "__name__": "gunicorn_conf_of_the_application"}
    with open(path, "rb") as file:
        exec(compile(file.read(), settings["__file__"], "exec"), settings)
    return settings


def _count_in():
    """The calling worker. Answers 0 when the pipe is full (65,536 respawns later), which no longer matters."""
    try:
        os.write(_LOADED[1], b".")
    except BlockingIOError:
        return 0
    return _loaded_workers()


def _loaded_workers():
    return struct.unpack("i", fcntl.ioctl(_LOADED[0], termios.FIONREAD, b"\0" * 4))[0]


def _say_ready():
    """In the last worker. systemd hears the main process only, so that one is told; supervisord has a file."""
    if _NOTIFY:
        os.kill(os.getppid(), signal.SIGURG)  # ignored by whoever does not expect it
    if os.environ.get("RELEASE_BIND"):
        with open(os.environ["RELEASE_BIND"] + ".ready", "w") as file:
            file.write(_status())


def _notify(*_):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        state = "READY=1\nSTATUS=" + _status()
        notifier.sendto(state.encode(), "\0" + _NOTIFY[1:] if _NOTIFY.startswith("@") else _NOTIFY)


def _status():
    return "%d workers loaded" % _loaded_workers()


def _naming_the_release(application):
    """The application; its answer to a request with `X-Release-Probe: 1` names the release, to nobody else."""

    def answer(environ, start_response):
        if environ.get("HTTP_X_RELEASE_PROBE") != "1":
            return application(environ, start_response)

        def start(status, headers, *error):
            return start_response(status, [*headers, ("X-Release", _RELEASE)], *error)

        return application(environ, start)

    return answer


def _speaks_wsgi(worker):
    """False for the workers of uvicorn and gunicorn that hold an ASGI application, in the same attribute or another."""
    return any((kind.__module__, kind.__name__) in _WSGI_WORKERS for kind in type(worker).__mro__)


if _NOTIFY:
    signal.signal(signal.SIGURG, _notify)
_theirs = _application_settings()
globals().update({name: value for name, value in _theirs.items() if not name.startswith("_") and name != "bind"})
_their_post_worker_init = _theirs.get("post_worker_init")

control_socket_disable = True  # gunicorn >= 25.1: else one path under the home folder for every release and application
graceful_timeout = _theirs.get("graceful_timeout", 30)  # seconds; the unit waits longer than that
if "workers" not in _theirs and "WEB_CONCURRENCY" not in os.environ:
    workers = 2 * len(os.sched_getaffinity(0)) + 1
if os.environ.get("RELEASE_BIND"):
    keepalive = 0  # a byte relay stands in front: a kept connection would stay with a release that is being retired


def post_worker_init(worker):
    """In the worker: the application is loaded, nothing is accepted yet."""
    if _their_post_worker_init:
        _their_post_worker_init(worker)
    if _RELEASE and _speaks_wsgi(worker):
        worker.wsgi = _naming_the_release(worker.wsgi)
    if _count_in() == worker.cfg.workers:
        _say_ready()
