#!/usr/bin/python3 -IS
"""Says that a run of a timer failed: in the journal of releases, then to whoever [notify] names, within a minute.

`failed.py JSON UNIT` is what OnFailure= starts; JSON names the application, the stage, its folders and the variable.
`failed.py post NAME` tells what is on stdin to the URL in the variable NAME, which is a secret and never repeated.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))

import project_journal

ANSWER = 5  # seconds one answer may take
TELLING = 20  # seconds after which nobody is told any more
LATE = 3  # seconds in which the journal of systemd may still get the unit's last line


def main(words: list[str]) -> int:
    if words[0] == "post":
        return post(os.environ.get(words[1], ""), sys.stdin.buffer.read())
    return failed(json.loads(words[0]), words[1])


def failed(at: dict[str, str], unit: str) -> int:
    """0 when it was recorded or somebody was told; the unit's own state says it in any case."""
    run = unit.rpartition(".")[0].replace(at["application"] + "-", "", 1)
    result = os.environ.get("MONITOR_SERVICE_RESULT", "failed")
    reason = said(os.environ.get("MONITOR_INVOCATION_ID", ""), result) or f"it ended with {result}"
    recorded = record(at, run, reason)
    told = tell(at, run, reason)
    return 0 if recorded or told else 1


def said(invocation: str, result: str) -> str:
    """The reason the release's program gave in its answer, which has no secret in it; nothing else is repeated."""
    deadline = time.monotonic() + LATE
    while invocation:
        found = next((line for line in reversed(log(invocation)) if line.startswith('{"') and '"error": ' in line), "")
        with suppress(ValueError, AttributeError):
            return plain(json.loads(found).get("error", ""))
        if result != "exit-code" or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return ""


def log(invocation: str) -> list[str]:
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={invocation}"]
    try:
        done = subprocess.run([*command, "--lines=50"], capture_output=True, timeout=LATE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def plain(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(text))[:300].strip()


def record(at: dict[str, str], run: str, reason: str) -> bool:
    try:
        release = Path(at["current"]).readlink().name
    except OSError:
        release = ""
    try:
        project_journal.append(Path(at["journal"]), "failed", release, "timer", f"{run}: {reason}", unit=run)
    except OSError as error:  # a full disk, say
        print(f"the journal of releases could not be written: {error.strerror}", file=sys.stderr)
        return False
    return True


def tell(at: dict[str, str], run: str, reason: str) -> bool:
    """By a process with the variables of the release, or ours where there is none; ended when it takes too long."""
    if not at["variable"]:
        return False
    launch = ["/usr/bin/python3", "-IS", at["current"] + "/.release/launch.py", "exec", "--"] if at["current"] else []
    command = [*launch, "/usr/bin/python3", "-IS", str(Path(__file__).resolve()), "post", at["variable"]]
    try:
        done = subprocess.run(command, input=message(at, run, reason), timeout=TELLING, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"the webhook was not told: {type(error).__name__}", file=sys.stderr)
        return False
    return done.returncode == 0


def message(at: dict[str, str], run: str, reason: str) -> bytes:
    """As docs/reference/json.md has it: `text` is what Slack and its kin show."""
    hint = at.get("hint") or f"fab logs --stage {at['stage']} --service {run}"
    text = f"{at['application']} ({at['stage']}): the {run} that runs by itself failed: {reason}\n{hint}"
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    facts = {"text": escaped, "verb": run, "stage": at["stage"], "result": "failed", "message": reason, "hint": hint}
    return json.dumps(facts).encode()


def post(url: str, body: bytes) -> int:
    """0 when it was taken. Of an error only its kind is said: its text may quote the URL."""
    if not url:
        print("nobody is told: the variable is not in the environment of the release", file=sys.stderr)
        return 1
    try:
        status = answer(url, body)
    except Exception as error:
        print(f"the webhook was not told: {type(error).__name__}", file=sys.stderr)
        return 1
    if not 200 <= status < 300:
        print(f"the webhook was not told: it answered {status}", file=sys.stderr)
        return 1
    return 0


def answer(url: str, body: bytes) -> int:
    """The HTTP status. ValueError, OSError or HTTPException where there is none."""
    parts = urlsplit(url)
    kinds = {"https": http.client.HTTPSConnection, "http": http.client.HTTPConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise ValueError("not a web address")
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=ANSWER)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": "fab-releases"})
    return connection.getresponse().status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
