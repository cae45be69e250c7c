"""Tells a chat room or a program how a plan ended; a deploy never fails because nobody could be told."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from ..model.event import PlanFinished
from . import outcome
from .words import clean, seconds

_TIMEOUT = 5.0
"""Seconds without an answer."""


def notify(url: str, finished: PlanFinished) -> str:
    """POST the outcome as JSON. "" when it was taken, else a warning; the URL is a secret and never part of it."""
    try:
        status = _post(url, json.dumps(message(finished)).encode())
    except Exception as error:  # the text of an error may quote the URL: only its kind is said
        return f"the webhook was not told: {type(error).__name__}"
    return "" if 200 <= status < 300 else f"the webhook was not told: it answered {status}"


def message(finished: PlanFinished) -> dict[str, Any]:
    """`text` is what Slack and its kin show; the rest is for programs."""
    line = f"{outcome.sentence(finished)} ({seconds(finished.seconds)})"
    serves = [f"{release} on {', '.join(hosts)}" for release, hosts in outcome.served(finished)]
    text = "\n".join(
        (line, *(f"serves now: {one}" for one in serves), *([clean(finished.hint)] if finished.hint else []))
    )
    return {
        "text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        "verb": finished.plan.verb,
        "stage": finished.plan.stage,
        "release": finished.plan.release,
        "previous": outcome.previous(finished),
        "result": outcome.result(finished),
        "code": finished.code,
        "message": finished.message,
        "hint": finished.hint,
        "seconds": round(finished.seconds, 3),
        "serves": finished.serves,
    }


def _post(url: str, body: bytes) -> int:
    """The HTTP status. ValueError, OSError or HTTPException where there is none."""
    parts = urlsplit(url)
    kinds = {"https": http.client.HTTPSConnection, "http": http.client.HTTPConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise ValueError("not a web address")
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_TIMEOUT)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": "fab-releases"})
        status: int = connection.getresponse().status
        return status
    finally:
        connection.close()
