"""Who listens: decided once from the flags, the environment and the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from . import github, gitlab
from .console import Console
from .jsonl import Jsonl
from .plain import Plain
from .reporter import Reporter


def reporters(*, json: bool = False, environ: Mapping[str, str], isatty: bool) -> list[Reporter]:
    """`isatty` is about stderr: all talk goes there, stdout carries only JSON lines."""
    actions = environ.get("GITHUB_ACTIONS") == "true"
    chosen: list[Reporter] = []
    if json:
        chosen.append(Jsonl(sys.stdout))
    elif actions:
        chosen.append(Plain(sys.stderr, github.SECTIONS))
    elif environ.get("GITLAB_CI") == "true":
        chosen.append(Plain(sys.stderr, gitlab.sections()))
    elif isatty and environ.get("TERM") != "dumb" and not environ.get("CI"):
        chosen.append(Console())
    else:
        chosen.append(Plain(sys.stderr))
    if actions:
        chosen.append(github.Summary(sys.stderr, environ))
    return chosen
