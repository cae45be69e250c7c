"""Writes the pages of docs/reference that are told by the tasks themselves.

`python -m tasks._pages --write` after a change of a task or an exit code; without it, exit 1 when that was forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import namespace
from .report import pages
from .report.safe import err

REFERENCE = Path("docs/reference")


def wanted() -> dict[str, str]:
    """File name -> text."""
    tasks = [(name, namespace[name]) for name in namespace.task_names]
    return {"tasks.md": pages.tasks(tasks), "exit-codes.md": pages.exit_codes()}


def main(arguments: list[str], folder: Path = REFERENCE) -> int:
    stale = [name for name, text in wanted().items() if not _says(folder / name, text)]
    for name in stale:
        if "--write" in arguments:
            (folder / name).write_text(wanted()[name], encoding="utf-8")
        else:
            err(f"{folder / name} is not what the tasks say: make docs")
    return 1 if stale and "--write" not in arguments else 0


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
