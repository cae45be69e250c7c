#!/usr/bin/python3 -IS
"""systemctl for the account that deploys: what a deploy needs of this application's units, word by word, and no more.

sudo runs it as root with whatever words it is given, so that the sudoers file needs no pattern: sudo before 1.9.10
knows no regular expressions, and sudo-rs refuses them. What is allowed lies beside it, NAME.json, which root owns.
"""

from __future__ import annotations

import json
import os
import re
import sys

SYSTEMCTL = "/usr/bin/systemctl"
ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{7}")
"""Of a release: a unit's instance."""


def is_allowed(words: list[str], application: str, services: dict[str, str], units: dict[str, list[str]]) -> bool:
    """Whether these are words that a deploy says.

    `services`: name -> web, worker or beat. `units`: whole name, or "NAME@" for any point in time -> verbs.
    """
    if len(words) < 2:
        return False
    verb, *rest = words
    if rest[0] != "--no-block":
        return len(rest) == 1 and verb in units.get(_of_a_time(rest[0]), ())
    named = [_parsed(unit, application) for unit in rest[1:]]
    if not all(named) or not named:
        return False
    service, id, kind = named[0] or ("", "", "")
    if services.get(service) == "beat":
        return verb == "restart" and named == [(service, "", "service")]
    allowed = [[(service, id, "service")]]
    if services.get(service) == "web" and verb == "stop":
        allowed = [[(service, id, "service"), (service, id, "socket")]]
    return bool(id) and service in services and verb in ("start", "stop") and kind == "service" and named in allowed


def _parsed(unit: str, application: str) -> tuple[str, str, str] | None:
    """(service, release, "service" or "socket"); the release is "" for a unit that has none."""
    found = re.fullmatch(re.escape(application) + r"-([a-z0-9_-]+)(?:@([0-9a-f-]+))?\.(service|socket)", unit)
    if not found or (found[2] and not ID.fullmatch(found[2])):
        return None
    return found[1], found[2] or "", found[3]


def _of_a_time(unit: str) -> str:
    """ "pos-moment@" for a point in time that is named as we name them, else the unit itself."""
    found = re.fullmatch(r"([a-z0-9_-]+@)(?:latest|\d{8}-\d{6}-\d{6})\.service", unit, re.ASCII)
    return found[1] if found else unit.rstrip("@")


def main() -> int:
    with open(os.path.realpath(__file__) + ".json", encoding="utf-8") as file:
        rules = json.load(file)
    words = sys.argv[1:]
    if is_allowed(words, rules["application"], rules["services"], rules["units"]):
        os.execve(SYSTEMCTL, [SYSTEMCTL, *words], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})
    print(f"refused: systemctl {' '.join(map(ascii, words))} is not what a deploy needs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
