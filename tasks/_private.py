"""Values on the operator's own machine: asked for, read, edited and written where nobody else can see them."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .model.errors import FailedError, UsageError
from .model.shell import Secret
from .report.safe import clean

LARGEST = 1024 * 1024
"""Bytes; what is larger is no file of variables."""


def asked(key: str) -> Secret:
    """On a terminal without echo, else all of stdin but the newline that ends it."""
    if sys.stdin.isatty():
        value = ""
        with suppress(EOFError):  # Ctrl-D
            value = getpass.getpass(f"{clean(key)}: ")
        if not value:
            raise UsageError(f"{key}: nothing was typed", f"printf '' | fab env.set {key} sets it to nothing")
        return Secret(value)
    text = _limited(sys.stdin.buffer.read(LARGEST + 1), "stdin")
    try:
        return Secret(text.decode().removesuffix("\n"))
    except UnicodeDecodeError:
        raise UsageError(f"{key}: what came on stdin is not UTF-8 text", "encode it, for example with base64") from None


def from_command(command: str) -> bytes:
    """What it prints. Its own complaints and questions go straight to the terminal."""
    words = _words(command, "[environment] source")
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    except OSError as problem:
        told = f"[environment] source: {words[0]}: {problem.strerror}"
        raise UsageError(told, "install it, or name it with its folder") from None
    if done.returncode:
        raise FailedError(
            f"[environment] source: {words[0]} ended with {done.returncode}; nothing was changed",
            "its own words are above; run it by hand",
        )
    if not done.stdout.strip():
        raise FailedError(f"[environment] source: {words[0]} printed nothing; nothing was changed", "run it by hand")
    return _limited(done.stdout, words[0])


def from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _limited(file.read(LARGEST + 1), str(path))
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}", "name a file with the variables") from None


def is_open_to_others(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o077)


def write(path: Path, content: bytes, *, force: bool) -> None:
    """0600 from its first byte, whole or not at all. UsageError when there is one already."""
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} is there already", "--force replaces it, or choose another name")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as problem:
        raise UsageError(f"cannot write in {path.parent}: {problem.strerror}", "choose another place") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror}", "choose another place") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def git_would_take(path: Path) -> bool:
    """Whether the next `git add` of its folder would."""
    words = ["git", "-C", str(path.absolute().parent), "check-ignore", "--quiet", path.name]
    try:
        return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 1
    except OSError:
        return False


@contextmanager
def desk(name: str, content: bytes) -> Iterator[Path]:
    """A file of one's own, in memory where there is such a place; overwritten and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fab-env-", dir=_memory()))
    try:
        path = folder / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        yield path
    finally:
        for left in folder.rglob("*"):
            with suppress(OSError):
                _overwrite(left)
        shutil.rmtree(folder, ignore_errors=True)


def edit(path: Path) -> bytes:
    """What the operator's editor leaves."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("vi" if sys.stdin.isatty() else "")
    if not chosen:
        raise UsageError(
            "nobody is here to edit", "`fab env.set KEY` reads a value from stdin; or set VISUAL or EDITOR"
        )
    words = _words(chosen, "$EDITOR")
    try:
        status = subprocess.run([*words, str(path)], check=False).returncode
    except OSError as problem:
        raise UsageError(f"the editor {words[0]}: {problem.strerror}", "set VISUAL or EDITOR") from None
    if status:
        raise FailedError(f"the editor {words[0]} ended with {status}; nothing was changed", "")
    return from_file(path)


def _memory() -> str | None:
    places = (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm")
    return next((one for one in places if one and Path(one).is_dir() and os.access(one, os.W_OK | os.X_OK)), None)


def _overwrite(path: Path) -> None:
    if path.is_file() and not path.is_symlink():
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())


def _words(command: str, where: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise UsageError(f"{where} is not a command line: {problem}", "see its quotes") from None
    if not words:
        raise UsageError(f"{where} is empty", "name a command")
    return words


def _limited(content: bytes, where: str) -> bytes:
    if len(content) > LARGEST:
        raise UsageError(f"{where}: more than {LARGEST // 1024} KB", "that is no file of variables")
    return content
