"""A chat room that is down, slow or rude must never break a deploy, and its address is a secret."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tasks.model.event import PlanFinished
from tasks.report import webhook

from .test_report_stories import NEW, OLD, deploy

SECRET_PATH = "/services/T0/B0/do-not-tell"
FINISHED = PlanFinished(
    deploy("web1", "web2"),
    5,
    f"{NEW} answered <500> & was put back",
    43.5,
    "fab logs",
    {"web1": {"previous": OLD}},
    {"web1": OLD, "web2": OLD},
)


@contextmanager
def room(status: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A real HTTP server on loopback that keeps what it was told."""
    told: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{SECRET_PATH}?a=1", told
        finally:
            server.shutdown()
            thread.join(30)


def test_the_room_reads_what_happened() -> None:
    with room(200) as (url, told):
        assert webhook.notify(url, FINISHED) == ""
    path, body = told[0]
    message = json.loads(body)
    assert path == f"{SECRET_PATH}?a=1"
    assert message["text"] == (
        f"deploy production: {NEW} answered &lt;500&gt; &amp; was put back (43.5s)\n"
        f"serves now: {OLD} on web1, web2\nfab logs"
    )
    assert (message["code"], message["result"], message["previous"]) == (5, "put-back", OLD)


def test_a_room_that_refuses_is_a_warning() -> None:
    with room(404) as (url, _):
        assert webhook.notify(url, FINISHED) == "the webhook was not told: it answered 404"


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:{closed_port()}{SECRET_PATH}",
        f"https://127.0.0.1:{closed_port()}{SECRET_PATH}",
        f"ftp://127.0.0.1{SECRET_PATH}",
        f"http://127.0.0.1:port{SECRET_PATH}",
        f"http://127.0.0.1/bad path{SECRET_PATH}\r\n",
        f"http://[::1{SECRET_PATH}",
        SECRET_PATH,
        "",
    ],
    ids=["closed", "closed, https", "ftp", "port", "blank", "bracket", "path", "empty"],
)
def test_whatever_is_wrong_with_the_address_it_is_a_warning_without_the_address(url: str) -> None:
    warning = webhook.notify(url, FINISHED)
    assert warning.startswith("the webhook was not told: ")
    assert "do-not-tell" not in warning
    assert "127.0.0.1" not in warning


def test_a_room_that_takes_the_call_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}{SECRET_PATH}"
        assert webhook.notify(url, FINISHED) == "the webhook was not told: TimeoutError"


def test_a_message_that_is_no_json_is_a_warning_too() -> None:
    odd = replace(FINISHED, seconds=float("nan"), message=object())  # type: ignore[arg-type]
    with room(200) as (url, _):
        assert webhook.notify(url, odd).startswith("the webhook was not told: ")
