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

TAKEN = {
    *("default", "postgres", "template0", "template1", "root", "none", "README"),
    *("nginx", "redis", "redis-server", "postgresql", "postgresql-common", "pgbouncer", "certbot", "fail2ban", "ufw"),
    *("apt", "dpkg", "rsyslog", "alternatives", "wtmp", "btmp", "unattended-upgrades", "fab-releases"),
}
"""Users of Redis, roles of PostgreSQL, units and files in folders of /etc that a server has for itself."""
OURS = {"backup", "drill", "offsite", "archive", "hold", "failed", "moment"}
"""Units of a stage are NAME-SERVICE, and these."""


def is_taken(name: str) -> bool:
    return name in TAKEN or name.startswith("pg_")


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
