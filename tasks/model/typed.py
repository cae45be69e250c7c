"""What a value of releases.toml may look like: each kind of text and number, and what to say of one that is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

STRICT = {"extra": "forbid", "use_attribute_docstrings": True}
"""Of every table: no unknown keys, and a field's docstring is its documentation."""


@dataclass(frozen=True)
class Match:
    """The whole text must match `pattern`; `says` completes the sentence "must be ..."."""

    pattern: str
    says: str


_PATH = r"(?!\.\.?(/|$))[A-Za-z0-9._+@-]+(/(?!\.\.?(/|$))[A-Za-z0-9._+@-]+)*"

Name = Annotated[str, Match(r"[A-Za-z][A-Za-z0-9_-]{0,40}", "a name: letters, digits, - and _, starting with a letter")]
SingleDashes = Annotated[
    str,
    Match(
        r"(?!.*--)[A-Za-z][A-Za-z0-9_-]{0,40}",
        "a name: letters, digits, _ and single -, starting with a letter",
    ),
]
"""What is joined by "--" to be the name of one stage and no other."""
OptionalName = Annotated[
    str, Match(r"([A-Za-z][A-Za-z0-9_-]{0,40})?", "a name: letters, digits, - and _, starting with a letter")
]
Address = Annotated[str, Match(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", "a host name or an IP address")]
Internal = Annotated[str, Match(r"(\d{1,3}(\.\d{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:]*)?", "an IP address")]
Account = Annotated[str, Match(r"[a-z_][a-z0-9_-]{0,31}", "the name of a Unix account")]
OptionalAccount = Annotated[str, Match(r"([a-z_][a-z0-9_-]{0,31})?", "the name of a Unix account")]
Absolute = Annotated[str, Match(rf"/{_PATH}", "an absolute path without spaces or ..")]
Relative = Annotated[str, Match(rf"((?!-){_PATH})?", "a path inside the release, without spaces or ..")]
Inside = Annotated[str, Match(rf"(?!-){_PATH}", "a path inside the release, without spaces or ..")]
Place = Annotated[
    str, Match(r"(?!-)[A-Za-z0-9._+@~/-]+", "a folder, absolute or (sandbox) beside releases.toml, without spaces")
]
Port = Annotated[
    int, Match(r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]", "a port: 1 to 65535")
]
Count = Annotated[int, Match(r"\d{1,4}", "a whole number, 0 or more")]
Positive = Annotated[int, Match(r"[1-9]\d{0,3}", "a whole number, 1 or more")]
UNSEEN = r"\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""For a pattern: control characters, and what hides or turns text, which no word of a configuration needs."""
PLAIN_ADDRESS = rf"(?!-)[^{UNSEEN}\s\xa0'\x22`$;|&<>\\]{{1,300}}"
Line = Annotated[str, Match(rf"((?!-)[^{UNSEEN}]+)?", "one line that does not start with -")]
Hook = Annotated[str, Match(rf"([^{UNSEEN}]|[\t\n])+", "a command")]
Text = Annotated[str, Match(r"[^\x00]*", "text without NUL characters")]
Duration = Annotated[str, Match(r"\d+(ms|s|m|h)?", 'a duration such as "500ms", "5s", "2m" or "1h"')]
Reference = Annotated[str, Match(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}", "a branch, tag or commit")]
Variable = Annotated[str, Match(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
Module = Annotated[
    str, Match(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?)?", 'a Python module, as "pos.wsgi:application"')
]
Host_ = Annotated[str, Match(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d+)?)?", "a host name")]
