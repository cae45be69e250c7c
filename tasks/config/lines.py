"""Where each key of a TOML text is written: tomllib says what the values are, but not on which line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Key = tuple[str | int, ...]
TOKEN = re.compile(
    r'"{3}(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'{3}.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{},=.\n]"
    r"|[^\s\[\]{},=.\#\"']+",
    re.DOTALL,
)


def lines(text: str) -> dict[Key, int]:
    """Key path -> line, from 1. `text` is TOML that tomllib has accepted."""
    return Scanner(text).scan()


def nearest(known: Mapping[Key, int], key: Key) -> int:
    """The line of a key, or of the closest table around it that is written down."""
    return next((known[key[:end]] for end in range(len(key), 0, -1) if key[:end] in known), 1)


class Scanner:
    """Reads statements from left to right; values are skipped, keys inside of them are not."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, int]] = []
        line = 1
        for found in TOKEN.finditer(text):
            if not found[0].startswith("#"):
                self.tokens.append((found[0], line))
            line += text.count("\n", found.start(), found.end())
        self.tokens += [("\n", line)]
        self.at = 0
        self.known: dict[Key, int] = {}
        self.rows: dict[Key, int] = {}

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self.at < len(self.tokens):
            if self.peek() == "[":
                table = self.header()
            elif self.peek() == "\n":
                self.at += 1
            else:
                self.pair(table)
        return self.known

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "\n"

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][0]

    def header(self) -> Key:
        line = self.tokens[self.at][1]
        self.take()
        row = self.peek() == "["
        parts = self.name("]")
        table: Key = ()
        for place, part in enumerate(parts, 1):
            table += (part,)
            if row and place == len(parts):
                self.rows[table] = self.rows.get(table, -1) + 1
            self.note(table, line)
            if table in self.rows:
                table += (self.rows[table],)
                self.note(table, line)
        return table

    def name(self, end: str) -> list[str]:
        """The parts of a key, up to and with `end`."""
        parts: list[str] = []
        while (token := self.take()) != end:
            if token[0] in "\"'":
                parts.append(tomllib.loads(f"key = {token}")["key"])
            elif token not in ".[":
                parts.append(token)
        if self.peek() == "]" and end == "]":
            self.take()
        return parts

    def pair(self, table: Key) -> None:
        line = self.tokens[self.at][1]
        key = table
        for part in self.name("="):
            key += (part,)
            self.note(key, line)
        self.value(key)

    def value(self, key: Key) -> None:
        """Step over a value, up to the comma, bracket or line end behind it."""
        if self.peek() in "[{":
            self.inside(key, "]" if self.take() == "[" else "}")
        while self.peek() not in (",", "]", "}", "\n"):
            self.take()

    def inside(self, key: Key, end: str) -> None:
        row = 0
        while self.peek() != end:
            if self.peek() in ",\n":
                self.take()
            elif end == "}":
                self.pair(key)
            else:
                self.note((*key, row), self.tokens[self.at][1])
                self.value((*key, row))
                row += 1
        self.take()

    def note(self, key: Key, line: int) -> None:
        self.known.setdefault(key, line)
