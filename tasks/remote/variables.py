"""The text of an environment file, changed one variable at a time; templates/release/launch.py says what it means."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from ..model.errors import FailedError, UsageError
from ..model.shell import Secret
from .library import templates

BY_HAND = "`fab env.edit` changes the file by hand"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|\Z)")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_COMMENT = re.compile(r"[ \t]+#[^\r\n]*")

Item = tuple[int, str, str | None]
"""(line, key, value as written); None where the reader refuses the line."""


@dataclass(frozen=True)
class Difference:
    """Names only: what a second file has more, has no more and has otherwise than a first one."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    same: int

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@cache
def _reader() -> ModuleType:
    """launch.py itself: what is written here is read there, and by nobody else."""
    spec = importlib.util.spec_from_file_location("release_launch", templates() / "release" / "launch.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept
    return module


def decoded(content: bytes, where: str) -> str:
    """FailedError with the line, never its text, of what no environment can hold."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if b"\0" in line or not _is_utf8(line):
            raise FailedError(f"{where}, line {number}: this is not UTF-8 text", BY_HAND)
    return content.decode()


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def read(text: str, dialect: str, where: str) -> dict[str, str]:
    """Key -> value. FailedError with the line, never its text, that launch.py would refuse."""
    launch = _reader()
    try:
        return dict(launch.variables(text, dialect, {}, where))
    except launch.Wrong as wrong:
        raise FailedError(
            str(wrong).rstrip("."), "put that line right, or choose another [environment] format"
        ) from None


def nameable(text: str, dialect: str) -> frozenset[str]:
    """The keys that are certainly names: what looks like one may be a line of another reader's value, as in a PEM."""
    return frozenset(one.key for one in _reader().findings(text, dialect, {}) if one.key != "-")


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    both = before.keys() & after.keys()
    changed = tuple(sorted(key for key in both if before[key] != after[key]))
    return Difference(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        changed,
        len(both) - len(changed),
    )


def valid_key(key: str, dialect: str) -> str:
    """The key itself. UsageError, which never repeats what may be a value, for what is no name of a variable."""
    name, equals, _ = key.partition("=")
    if equals:
        raise UsageError(
            f"{name if _reader().NAME.match(name) else 'KEY'}=...: a value is never an argument: every process "
            "of this machine, and your shell's history, would see it",
            "name the key alone; the value is asked for, or read from stdin. Change a value that was typed here",
        )
    if not _reader().NAME.match(key):
        raise UsageError("that is not the name of a variable", "letters, digits and _, not starting with a digit")
    if dialect == "shell" and key in _reader().SHELL_READ_ONLY:
        raise UsageError(f"{key}: the shell does not let it be set", "choose another name")
    if dialect == "none":
        raise UsageError(
            '[environment] format is "none": only the application knows how its file is written',
            "`fab env.edit`, or `fab env.push FILE`",
        )
    return key


def with_value(text: str, dialect: str, key: str, value: Secret) -> str:
    """`text` with the last assignment of `key` replaced, or one appended; everything else byte for byte.

    FailedError where the dialect cannot say the value, or the file's lines cannot be told apart.
    """
    items = _items(text, dialect)
    places = [index for index, (_, name, _) in enumerate(items) if name == key]
    start, end = _span(text, dialect, items, places[-1]) if places else (len(text), len(text))
    old = text[start:end]
    wanted = items[: places[-1]] + items[places[-1] + 1 :] if places else items
    for line in _spellings(old, dialect, key, value.value):
        gap = "" if places or not text or text.endswith(("\n", "\r")) else "\n"
        new = text[:start] + gap + line + text[end:]
        if _says(new, dialect, key, value.value) and _names(_items(new, dialect), key) == _names(wanted, key):
            return new
    raise FailedError(
        f"{key}: no line of the format {dialect} says this value" + (_why(dialect, value.value)),
        f"choose another [environment] format, or encode the value (base64); {BY_HAND}",
    )


def without(text: str, dialect: str, key: str) -> str:
    """`text` with every assignment of `key` removed. FailedError where another variable shares its line."""
    items = _items(text, dialect)
    new = text
    for index in reversed([index for index, (_, name, _) in enumerate(items) if name == key]):
        start, end = _span(text, dialect, items, index)
        new = new[:start] + new[end:]
    if _names(_items(new, dialect), key) != _names([item for item in items if item[1] != key], key):
        raise FailedError(f"{key} shares its line with another variable", BY_HAND)
    return new


def _items(text: str, dialect: str) -> list[Item]:
    """What the reader finds, with `${` taken for any other characters: a reference is not expanded here."""
    launch = _reader()
    found = launch.read(text.replace("${", "$\u2060{"), dialect, {})
    return [
        (one.line, one.key, one.value) if isinstance(one, launch.Assignment) else (one.line, "", None) for one in found
    ]


def _names(items: Sequence[Item], key: str) -> list[tuple[str, str | None]]:
    """In order, whatever line they are on, without `key`, whose line is the one that changes."""
    return [(name, value) for _, name, value in items if name != key]


def _says(text: str, dialect: str, key: str, value: str) -> bool:
    launch = _reader()
    try:
        return bool(launch.variables(text, dialect, {}, "").get(key) == value)
    except launch.Wrong:
        return False


def _span(text: str, dialect: str, items: Sequence[Item], index: int) -> tuple[int, int]:
    """Where the lines of one assignment start and end: as few as the reader needs to see it whole."""
    lines = [match for match in _LINE.finditer(text) if match[0]]
    first = items[index][0] - 1
    for last in range(first, len(lines)):
        if _items(text[: lines[last].end()], dialect) == list(items[: index + 1]):
            return lines[first].start(), lines[last].end()
    raise FailedError(f"{items[index][1]} shares its line with another variable", BY_HAND)


def _spellings(old: str, dialect: str, key: str, value: str) -> Iterator[str]:
    """Ways to write the assignment, the plainest first; what stood around the old value stays around the new one."""
    lead = re.match(r"[ \t]*(?:export[ \t]+)?" if dialect in ("dotenv", "shell") else "", old)
    ending = re.search(r"(?:\r\n|\n|\r)?\Z", old) if old else None
    for word in _quoted(dialect, value):
        for comment in dict.fromkeys((_comment(old, dialect), "")):
            yield f"{lead[0] if lead else ''}{key}={word}{comment}{ending[0] if ending else chr(10)}"


def _comment(old: str, dialect: str) -> str:
    """The comment at the end of an assignment's line: what the reader does not miss."""
    body = old.rstrip("\r\n")
    for match in _COMMENT.finditer(body):
        if match.end() == len(body) and [one[1:] for one in _items(body[: match.start()], dialect)] == [
            one[1:] for one in _items(old, dialect)
        ]:
            return match[0]
    return ""


def _quoted(dialect: str, value: str) -> Iterator[str]:
    if _PLAIN.fullmatch(value):
        yield value
    if dialect == "shell":
        yield "'" + value.replace("'", "'\\''") + "'"
    elif dialect == "systemd":
        yield f"'{value}'"
        yield '"' + re.sub(r'[\\"`$]', r"\\\g<0>", value) + '"'
    elif dialect == "decouple":
        yield from (value, f'"{value}"', f"'{value}'")
    else:
        # Even in single quotes ${NAME} is expanded; a reference to nobody, with the dollar as its default, is not.
        value = value.replace("${", "${:-$}{")
        double = '"' + re.sub(r'[\\"]', r"\\\g<0>", value).replace("\r", r"\r") + '"'
        single = "'" + re.sub(r"[\\']", r"\\\g<0>", value) + "'"
        yield from (double, single) if "\r" in value else (single, double)


def _why(dialect: str, value: str) -> str:
    if dialect == "decouple" and re.search(r"[\r\n]", value):
        return ": it has several lines"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value):
        return ": it has control characters"
    return ", or not beside what the file says already"
