"""Passwords in addresses: releases.toml is in git, and an address reaches process lists, logs and messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .lines import Key
from .shape import Problem

# What stands before the @ of an address; of https also a name alone, which there is a token. A colon with digits behind
# it is a port: there the @ belongs to the path.
_PASSWORD = re.compile(r"://[^\s/@:'\"\[]*:(?!\d+(?:/|$))(?!\$)[^\s@'\"]+@")
_TOKEN = re.compile(
    r"https?://(?![^\s/@]*\$)[^\s/@'\"?#]+@", re.IGNORECASE
)  # who comes by https has no other use for a name
_LIKE_SCP = re.compile(r"(?:sftp:)?(?!sftp:)[^\s/@:]+:[^\s/@:]+@[^\s/@:]+:")
_PARAMETER = re.compile(
    r"://[^\s'\"]*[?&;](?:[\w.-]*(?:password|passwd|secret|token|signature|api[_-]?key|access[_-]?key)|sig|pwd|key)="
    r"(?!\$)[^&\s'\"]",
    re.IGNORECASE,
)
_OPENERS = {
    "rest:": "RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD (where restic is too old for them, RESTIC_REPOSITORY: the "
    "whole address)",
    "s3:": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "swift:": "OS_AUTH_URL, OS_USERNAME and OS_PASSWORD",
    "b2:": "B2_ACCOUNT_ID and B2_ACCOUNT_KEY",
    "azure:": "AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_KEY",
}
_IN_FILE = "carries a password; it belongs in the environment file: fab env.set {}"


def carries_password(text: str, *, like_scp: bool = False) -> bool:
    """`like_scp`: USER:PASSWORD@HOST:PATH is an address as well."""
    found = any(one.search(text) for one in (_PASSWORD, _TOKEN, _PARAMETER))
    return found or (like_scp and _LIKE_SCP.match(text) is not None)


def passwords(value: Any, path: Key = ()) -> Iterator[Problem]:
    """Every text of a stage that carries one, with what to do instead; never the text."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from passwords(one, (*path, name))
    elif isinstance(value, list):
        for row, one in enumerate(value):
            yield from passwords(one, (*path, row))
    elif isinstance(value, str) and carries_password(value, like_scp=path[-1:] in (("repository",), ("archive",))):
        yield Problem(path, _instead(path, value))


def _instead(path: Key, value: str) -> str:
    match path:
        case ("repository",):
            return (
                "carries a password or token; say it without, and let a deploy key (ssh) or a credential helper on the "
                "servers open it"
            )
        case ("backup", "repository" | "archive" as key):
            opener = next((names for kind, names in _OPENERS.items() if value.startswith(kind)), "")
            if not opener:
                return f"carries a password; say it without: a key of root's on the servers opens an sftp {key}"
            return f"carries a password; say it without, export {opener} here, and name what you export in variables"
        case ("environment", "set", name) | ("recover", "variables", name):
            return _IN_FILE.format(name)
        case ("notify", _):
            return "is an address, and a secret; export it here, and say the name of that variable"
        case ("python", *_):
            return "carries a password; say it without, and let the deploying account's ~/.netrc on the servers open it"
        case ("environment", "source"):
            return "carries a password; let the command read it from a variable of yours or ask a vault"
        case ("hooks" | "services", *_):
            return "carries a password; take it from a variable of the environment file, as $NAME"
    return "carries a password; say it without"
