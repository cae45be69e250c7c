"""How `fab` treats a task over hosts: -H chooses among the configured ones, and the task still runs once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import fabric.executor
import fabric.main
import invoke

from .report.safe import err


class Executor(fabric.executor.Executor):
    """Fabric runs a task once per host of -H: two halves of a fleet, two releases. Here -H is a filter."""

    def expand_calls(self, calls: list[Any], apply_hosts: bool = True) -> list[Any]:  # noqa: ARG002 - Fabric's
        named = self.core[0].args.hosts.value or ""
        self.config["only"] = tuple(one.strip() for one in named.split(",") if one.strip())
        self.config["identity"] = tuple(self.core[0].args.identity.value or ())
        return list(super().expand_calls(calls, apply_hosts=False))


def take_over(namespace: invoke.Collection) -> None:
    """`fab` imports the fabfile before it chooses its executor, so that the running program can still be told."""
    program = fabric.main.program
    program.executor_class = Executor
    program.parse_tasks = _usage_is_2(program.parse_tasks, namespace)


def with_file_flag(words: Sequence[str], namespace: invoke.Collection) -> list[str]:
    """Invoke knows no word that may be left out: `env.push FILE` becomes `env.push --file FILE`."""
    told: list[str] = []
    takes_value: dict[str, bool] = {}
    value_is_due = False
    for word in words:
        if value_is_due:
            value_is_due = False
        elif word in namespace.task_names:
            flags = inspect.signature(namespace[word].body).parameters.values()
            takes_value = {_flag(one.name): not isinstance(one.default, bool) for one in flags}
        elif word.startswith("-"):
            takes_value = takes_value if word.partition("=")[0] in takes_value else {}  # Fabric's own, or a mistake
            value_is_due = takes_value.get(word, False)
        elif "--file" in takes_value:
            told.append("--file")
            takes_value = {}
        told.append(word)
    return told


def _flag(parameter: str) -> str:
    """As Invoke calls it: a word that Python keeps for itself has an underscore at its end."""
    return f"--{parameter.strip('_').replace('_', '-')}"


def _usage_is_2(parse: Callable[[], None], namespace: invoke.Collection) -> Callable[[], None]:
    def parse_tasks() -> None:
        core = fabric.main.program.core
        core.unparsed = with_file_flag(core.unparsed, namespace)
        try:
            parse()
        except invoke.ParseError as error:
            if "env.set" in core.unparsed:  # the word that is too many may be a value
                err("error: env.set takes one word, the name of a variable")
                err("\nhint: its value is asked for, or read from stdin; change one typed here")
                raise invoke.Exit(code=2) from None
            word = str(error).partition("'")[2].partition("'")[0]
            near = difflib.get_close_matches(word, namespace.task_names, 1)
            err(f"error: {error}")
            err(f"\nhint: did you mean `fab {near[0]}`?" if near else "\nhint: fab --list")
            raise invoke.Exit(code=2) from None

    return parse_tasks
