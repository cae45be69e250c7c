"""How `fab` treats a task over hosts: -H chooses among the configured ones, and the task still runs once."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from typing import Any

import fabric.executor
import fabric.main
import invoke


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


def _usage_is_2(parse: Callable[[], None], namespace: invoke.Collection) -> Callable[[], None]:
    def parse_tasks() -> None:
        try:
            parse()
        except invoke.ParseError as error:
            word = str(error).partition("'")[2].partition("'")[0]
            near = difflib.get_close_matches(word, namespace.task_names, 1)
            print(f"error: {error}", file=sys.stderr)
            print(f"\nhint: did you mean `fab {near[0]}`?" if near else "\nhint: fab --list", file=sys.stderr)
            raise invoke.Exit(code=2) from None

    return parse_tasks
