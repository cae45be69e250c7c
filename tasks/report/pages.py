"""Reference pages that are written from the code, so that they cannot say something else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..model.errors import EXIT_CODES
from .outcome import RESULTS

ADVICE = {
    0: "Nothing.",
    1: "Read the failing step's lines above the result, correct the cause, run the same command again.",
    2: "Correct the command line or `releases.toml`; nothing was sent to any server.",
    3: "Look at `fab status` to see who holds the lock or why the stage is frozen; `--wait` waits for a lock.",
    4: "Do what the hint says on the named host, then run the same command again.",
    5: "Users are served what was live before. Look at `fab logs`, correct the cause, run the command again.",
    6: "Run `fab status`: it shows which host serves what. Then `fab repair`, or deploy again.",
    70: "Report it with the printed text; `fab status` tells whether anything changed.",
    130: "Nothing: what was begun was undone. Run the command again when you want.",
}


def arguments(task: Any) -> list[Any]:
    """A task's arguments. Invoke takes each help text out of the task as it hands it over: they are put back."""
    kept = dict(task.help)
    found = list(task.get_arguments())
    task.help.update(kept)
    return found


def exit_codes() -> str:
    """docs/reference/exit-codes.md."""
    rows = "".join(
        f"| {code} | `{RESULTS[code]}` | {meaning} | {ADVICE[code]} |\n" for code, meaning in EXIT_CODES.items()
    )
    return (
        "# Exit codes\n\n"
        "Every task ends with one of these, and they do not change between versions. The word is what `--json`, the\n"
        "webhook and the `result` output on GitHub Actions say.\n\n"
        "| code | result | meaning | what to do |\n|---|---|---|---|\n"
        f"{rows}\n"
        "4 is what a look at the servers finds before anything is begun: a shared file is missing, a disk is full.\n"
        "What is wrong with a revision (no lock file, a Python the server has not, Git LFS, `check --deploy`) is\n"
        "found while its release is built beside the live one and started in private: that is code 1. What was built\n"
        "is removed again; what hooks of `after_checkout` did, and files put into a shared folder for the first time,\n"
        "stays.\n\n"
        "A host that did not answer any more is code 1 when everything else was undone: what that host does now is\n"
        "unknown until `fab status` has asked it.\n\n"
        "```bash\n"
        "fab deploy --stage production || case $? in\n"
        "    3) echo 'somebody else deploys' ;;\n"
        "    6) echo 'call a person' ;;\n"
        "esac\n"
        "```\n"
    )


def tasks(declared: Iterable[tuple[str, Any]]) -> str:
    """docs/reference/tasks.md, from Invoke's tasks by the name they are called by: docstrings and flags."""
    return (
        "# Tasks\n\n"
        "Made from the code by `make docs`. `fab --list` names them, `fab --help TASK` shows one. Every task reads\n"
        "`releases.toml` in the folder it is run in, and `-H web1,web2` before the task's name leaves only those\n"
        "hosts of the stage. How a task ends: [exit codes](exit-codes.md).\n\n"
        + "\n".join(_task(name, one) for name, one in declared)
    )


def _task(name: str, task: Any) -> str:
    words = [f"`fab {name}", *(name.upper() for name in task.positional)]
    about = " ".join((task.body.__doc__ or "").split())
    asked = arguments(task)
    rows = "".join(f"| `{_flag(one)}` | {one.help}{_default(one)} |\n" for one in asked if not one.positional)
    named = "".join(f"`{one.name.upper()}`: {one.help}.\n\n" for one in asked if one.positional)
    return f"## {' '.join(words)}`\n\n{about}\n\n{named}" + (f"| flag | |\n|---|---|\n{rows}" if rows else "")


def _flag(argument: Any) -> str:
    value = {bool: "", int: " N"}.get(argument.kind, " TEXT")
    return f"--{argument.name.strip('_').replace('_', '-')}{value}"


def _default(argument: Any) -> str:
    return f" (default: {argument.default})" if argument.default else ""
