"""Runs a Celery worker that says READY only when it answers a ping through its broker, as a task would reach it.

    .venv/bin/python RELEASE/.release/celery_ready.py -A shop worker ...     what `celery -A shop worker ...` would be

A worker can be up, connected and deaf; only an answer proves it. READY carries `queues=` (what this worker takes tasks
from) and `routed=` (every queue the configuration can send to), so that a queue without a worker can be named.
It stands in front of Celery instead of being imported by it, so it needs nothing on PYTHONPATH and no option.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

PATIENCE = 20  # seconds until a worker that does not answer itself is given up
PING_TIMEOUT = 2  # seconds; an answer ends a ping at once


def queue_name(queue):
    return str(getattr(queue, "name", queue))


def routes_to(route, leaf=False):
    """Queue names in a value of `task_routes`: mappings, pairs, lists of them. A function's answers stay unknown."""
    if isinstance(route, dict):
        if "queue" in route:
            yield queue_name(route["queue"])
        else:
            for value in route.values():
                yield from routes_to(value, leaf=True)
    elif isinstance(route, str):
        if leaf:
            yield route
    elif isinstance(route, (list, tuple)):
        is_pair = len(route) == 2 and isinstance(route[0], str) and not isinstance(route[1], (list, tuple))
        for item in route[1:] if is_pair else route:
            yield from routes_to(item, leaf=is_pair)


def routed_queues(app):
    """Every queue the configuration can send a task to; Celery's own router is not asked, as it would create them."""
    names = {app.conf.task_default_queue}
    names.update(routes_to(app.conf.task_routes or ()))
    for entry in (app.conf.beat_schedule or {}).values():
        options = entry.get("options") or {}
        if "queue" in options:
            names.add(queue_name(options["queue"]))
    names.update(queue_name(task.queue) for task in app.tasks.values() if getattr(task, "queue", None))
    return sorted(names)


def notify(state):
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def answers_itself(app, hostname):
    """None when the worker answered a ping through the broker within PATIENCE, else the reason it did not."""
    reason, end = "no answer", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            replies = app.control.ping(destination=[hostname], timeout=PING_TIMEOUT) or []
            if any("ok" in (reply.get(hostname) or ()) for reply in replies):
                return None
        except Exception as error:  # whatever a broker's client raises; its text may hold the broker's password
            reason = type(error).__name__
            time.sleep(PING_TIMEOUT)
    return reason


def announce(app, hostname, queues, logger):
    queue_lists = "queues=%s routed=%s" % (",".join(queues), ",".join(routed_queues(app)))
    reason = answers_itself(app, hostname) if app.conf.worker_enable_remote_control else None
    if reason:
        logger.error("not ready: %s did not answer a ping through its broker in %d s (%s)", hostname, PATIENCE, reason)
        return
    logger.info("ready: %s %s", hostname, queue_lists)
    notify("READY=1\nSTATUS=" + queue_lists)


def on_worker_ready(sender, **_):
    """In a thread: the worker has to go on to be able to answer."""
    from celery.utils.log import get_logger

    queues = sorted(queue_name(queue) for queue in sender.task_consumer.queues)
    arguments = (sender.app, sender.hostname, queues, get_logger("celery.ready"))
    threading.Thread(target=announce, args=arguments, name="announce", daemon=True).start()


def main():
    programs = os.path.dirname(sys.executable)
    sys.path[0] = programs  # as for the console script; our own folder holds names an application may use
    sys.argv[0] = os.path.join(programs, "celery")
    import celery

    celery.maybe_patch_concurrency()  # gevent and eventlet want to be first, before anything of Celery is imported
    from celery.__main__ import main as celery_main
    from celery.signals import worker_ready

    worker_ready.connect(on_worker_ready, weak=False)
    return celery_main()


if __name__ == "__main__":
    sys.exit(main())
