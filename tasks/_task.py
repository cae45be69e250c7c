"""What every task shares: how it is declared, how its errors become one sentence and an exit code."""

from __future__ import annotations

import functools
import inspect
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import invoke

from .model.errors import ReleasesError
from .report.safe import clean, err

REPORT = """
This is a bug of fab-releases, not yours. Nothing above says what state the servers are in: `fab status` does.
Please report it with these lines:

  fab-releases {version}, Python {python}, {system}
  {command}
{trace}"""

SHARED = {
    "stage": "which stage of releases.toml (default: its default_stage)",
    "json": "one JSON object per line on stdout (docs/reference/json.md)",
    "yes": "do not ask",
    "dry_run": "print the plan after real reads; change nothing",
    "wait": "wait up to this long for a lock somebody else holds, as 90s or 10m",
    "batch": "how many hosts switch at a time",
    "force": "build again although this commit is live, its packages from nothing",
}


def task(
    help: dict[str, str] | None = None, *, secret: bool = False, **options: Any
) -> Callable[[Callable[..., Any]], invoke.Task[Any]]:
    """Declare a task. `help` is for its own flags; shared ones are known here.

    With `secret` it handles values: not even a bug's own words are shown.
    """

    def declare(function: Callable[..., Any]) -> invoke.Task[Any]:
        named = inspect.signature(function).parameters
        told = {name: text for name, text in SHARED.items() if name in named} | (help or {})

        @functools.wraps(function)
        def run(context: invoke.Context, *words: Any, **flags: Any) -> None:
            if context.config.run.dry:  # Fabric's own --dry would pretend that every answer is empty
                if "dry_run" not in named:
                    fail(f"{function.__name__.replace('_', '-')} has no dry run", "leave out --dry", 2)
                flags["dry_run"] = True
            guarded(_wordless(function) if secret else function, context, *words, **flags)

        made: invoke.Task[Any] = invoke.task(help=told, auto_shortflags=False, **options)(run)
        return made

    return declare


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def guarded(function: Callable[..., Any], *words: Any, **flags: Any) -> None:
    """A CI job that is cancelled, or a closed terminal, is an interruption like Ctrl-C: undone, not torn off."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    try:
        code = function(*words, **flags)
    except ReleasesError as error:
        fail(error.message, error.hint, error.code)
    except invoke.Exit:
        raise
    except KeyboardInterrupt:
        fail("interrupted", "", 130)
    except BrokenPipeError:
        raise invoke.Exit(code=0) from None
    except Exception:
        report_bug()
    else:
        if code:
            raise invoke.Exit(code=code)


def _wordless(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of an unexpected exception only its kind and its place go on: its words may hold a value."""

    def run(*words: Any, **flags: Any) -> Any:
        try:
            return function(*words, **flags)
        except (ReleasesError, invoke.Exit, BrokenPipeError):
            raise
        except Exception as problem:
            raise RuntimeError(type(problem).__name__).with_traceback(problem.__traceback__) from None

    return run


def fail(message: str, hint: str, code: int) -> None:
    err(f"error: {message}")
    if hint:
        err(f"\nhint: {hint}")
    raise invoke.Exit(code=code)


def report_bug() -> None:
    """Where, never with what: a frame's values may be secrets."""
    from . import __version__

    trace = traceback.TracebackException(*sys.exc_info())
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in trace.stack[-8:]]
    lines.append(f"  {trace.exc_type.__name__ if trace.exc_type else ''}: {clean(str(trace), 300)}")
    err(
        REPORT.format(
            version=__version__,
            python=platform.python_version(),
            system=platform.system(),
            command=clean(" ".join(sys.argv[1:3])),
            trace="\n".join(lines),
        )
    )
    raise invoke.Exit(code=70)
