"""Compares the packages of an environment with what each of them lists of its own files.

`python -IS packages.py ENVIRONMENT` prints each damaged package, its first damaged file and what is wrong with it. What
ENVIRONMENT/differing.json names, a list of {"package", "file", "what", "held"}, was installed from what was fetched
again: a file that still has that content is as it was published, and its package's list is wrong. With the word `note`,
what differs now is written there.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

BLOCK = 1 << 20
ALGORITHMS = ("sha256", "sha384", "sha512")


def main(environment: str, note: str = "") -> None:
    place = Path(environment, "differing.json")
    published, found = read_report(place), damaged(Path(environment))
    if note:
        place.write_text(json.dumps(found, indent=1) + "\n")
    firsts = {one["package"]: one for one in reversed(found) if not one["held"] or one not in published}
    for package in sorted(firsts):
        print(package, firsts[package]["file"], firsts[package]["what"], sep="\t")


def read_report(place: Path) -> list[dict]:
    try:
        return list(json.loads(place.read_text()))
    except (OSError, ValueError):
        return []


def damaged(environment: Path) -> list[dict]:
    """Each file that is not what its package says; `held` is the digest of what is there, "" where nothing is."""
    lists = sorted(environment.glob("lib/python*/site-packages/*.dist-info"))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter to others
        return [one for found in pool.map(damaged_package, lists) for one in found]


def damaged_package(folder: Path) -> list[dict]:
    package = re.sub(r"[-_.]+", "-", folder.name[: -len(".dist-info")].rpartition("-")[0]).lower()
    try:
        rows = list(read_record(folder / "RECORD"))
    except (OSError, ValueError, csv.Error):
        return [finding(package, f"{folder.name}/RECORD", "cannot be read", "")]
    found = []
    for name, algorithm, digest in rows:
        what, held = compare(folder.parent / name, algorithm, digest)
        if what:
            found.append(finding(package, name, what, held))
    return found


def finding(package: str, file: str, what: str, held: str) -> dict:
    return {"package": package, "file": file, "what": what, "held": held}


def read_record(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file, algorithm, digest) of those that have one. ValueError for what is no such list."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if not {f"{path.parent.name}/METADATA", f"{path.parent.name}/RECORD"} <= {row[0] for row in rows}:
        raise ValueError("it is not whole")  # what installs a package adds to a list that is empty
    for row in rows:
        if len(row) != 3 or "\0" in row[0]:
            raise ValueError("it has a line that names no file")
        algorithm, _, digest = row[1].partition("=")
        if row[1] and algorithm in ALGORITHMS:
            yield row[0], algorithm, digest


def compare(path: Path, algorithm: str, wanted: str) -> tuple[str, str]:
    """("", digest) where it is as listed, else what is wrong with it, and the digest of what is there."""
    sum = hashlib.new(algorithm)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                sum.update(block)
    except FileNotFoundError:
        return "is missing", ""
    except OSError as error:
        return f"cannot be read: {error.strerror}", ""
    held = base64.urlsafe_b64encode(sum.digest()).rstrip(b"=").decode()
    return ("" if held == wanted else "is not what the package contains"), held


if __name__ == "__main__":
    main(*sys.argv[1:])
