"""What a stage is called on its servers: one name, from which every other one there follows.

Two stages never come to the same name: no application and no stage has "--" in its own.
"""

from __future__ import annotations

import hashlib
import re

FIRST = "production"
"""The stage that is called as its application is."""
LONGEST = 41
"""PostgreSQL cuts names off at 63 bytes, and a restore makes longer ones of a database's."""


def on_servers(application: str, stage: str) -> str:
    """ "pos", of another stage than production "pos--staging"."""
    return _limited(application if stage == FIRST else f"{application}--{stage}", LONGEST)


def account(name: str) -> str:
    """Of a service: "app-pos". Nobody who logs in, and nothing of Debian's, is called like that."""
    plain = name.lower()
    return _limited(f"app-{plain}" if plain == name else f"app-{_marked(plain, name)}", 32)


def readers(account: str) -> str:
    """The group of who reads the variables of that account's application: not the web server, which is in its own."""
    return _limited(f"env-{account}", 32)


def word(name: str) -> str:
    """For what knows small letters, digits and _ alone: variables of nginx, replication slots."""
    if re.fullmatch(r"[a-z0-9-]+", name):
        return name.replace("-", "_")
    return _marked(name.lower().replace("-", "_"), name, "_")


def _limited(text: str, most: int) -> str:
    return text if len(text) <= most else _marked(text[: most - 9], text)


def _marked(text: str, whole: str, sign: str = "-") -> str:
    return f"{text}{sign}{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
