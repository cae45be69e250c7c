"""Says whether the key that somebody keeps away from the servers is the one used here, and opens what it should.

sudo runs it as root, without words: what somebody has is proven by an HMAC of a word of theirs, so that no key travels.
"""

from __future__ import annotations

import hmac
import json
import re
import subprocess
import sys

from .. import files
from ..refused import Refused
from .offsite import read_settings
from .restic import Repository, reason

LONGEST = 4096
SECONDS = 10


def main(words: list[str]) -> int:
    """`words` are the path of the settings. Prints one JSON object: key, trouble."""
    try:
        asked = json.loads(sys.stdin.readline(LONGEST))
        nonce, given = str(asked["nonce"]), str(asked["proof"])
    except (ValueError, TypeError, KeyError):
        print("a nonce and its proof are asked for, as JSON", file=sys.stderr)
        return 2
    if not re.fullmatch(r"[0-9a-f]{32,128}", nonce):
        print("the nonce must be hexadecimal, and long", file=sys.stderr)
        return 2
    target = read_settings(words[0]).target
    print(json.dumps({"place": target.place, "key": compared(target, nonce, given), "trouble": trouble(target)}))
    return 0


def compared(target: Repository, nonce: str, given: str) -> str:
    """missing: there is none here; unasked: nobody gave a proof; same; other."""
    try:
        key = files.read(target.key)
    except FileNotFoundError:
        return "missing"
    if not given:
        return "unasked"
    return "same" if hmac.compare_digest(proof(key, nonce), given) else "other"


def proof(key: bytes, nonce: str) -> str:
    return hmac.digest(key.strip(), nonce.encode(), "sha256").hex()


def trouble(target: Repository) -> str:
    """Why the repository cannot be opened with the key that is here; "" when it can."""
    try:
        done = target.run("--no-lock", "cat", "config", seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it did not answer in {SECONDS} s"
    except (OSError, Refused) as error:
        return str(error)
    return reason(done.stderr) if done.returncode else ""
