"""Makes single entries of an archive in a session of our own, which hears why one cannot be made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable

from django.db import Error
from project_answer import first_line, say
from project_archive import NOWHERE, Entry
from project_sessions import fetch, literal, quote

NOT_ALLOWED = "42501"  # insufficient_privilege
AS_SOMEBODY = "SET SESSION AUTHORIZATION "
RESTRICTED = re.compile(r"^\\restrict (\S+)\n", re.MULTILINE)
WORDS = re.compile(r"""[^"';]+|"(?:[^"]|"")*"|'(?:[^']|'')*'|;""")
MAY_CREATE = "SELECT has_schema_privilege(oid, to_regnamespace(%s), 'CREATE') FROM pg_roles WHERE rolname = %s"


@dataclass(frozen=True)
class Reason:
    text: str
    code: str

    @property
    def by_right(self) -> bool:
        return self.code == NOT_ALLOWED


@dataclass
class Mender:
    session: object
    script: Callable[..., str]
    """(entry, *words of pg_restore) -> what it would say."""
    path: str
    """search_path of the live database."""
    ours: set[str]
    """Roles that we are, or are members of."""
    reasons: dict[int, Reason] = field(default_factory=dict)
    """Why an entry could not be made, by its id."""

    def make(self, entry: Entry) -> bool:
        """As it is meant; then with names found as live finds them; then ours instead of its owner's."""
        self.reasons.pop(entry.id, None)
        tried: set[str] = set()
        for words in ((), ("--no-owner",), ("--no-owner", "--no-tablespaces")):
            text = unrestricted(self.script(entry, *words))
            if text in tried:
                continue
            found = self.refusal(entry, looked_up(text, ""))
            if found and not found.by_right:
                if not tried:
                    del self.reasons[entry.id]  # where names are found, it may be another one
                found = self.refusal(entry, looked_up(text, self.path))
            if not found:
                return True
            tried.add(text)
        return False

    def give(self, entry: Entry) -> bool:
        """To its owner, who need not be allowed to create there any more: what it may comes later."""
        if entry.owner not in self.ours:
            self.reasons[entry.id] = Reason(f'must be member of role "{entry.owner}"', NOT_ALLOWED)
            return False
        lines = self.given_away(entry)
        space = quote(entry.namespace)
        shut_out = entry.namespace and fetch(self.session, MAY_CREATE, [space, entry.owner])
        if shut_out and not shut_out[0][0]:
            who = quote(entry.owner)
            guest, leave = f"CREATE ON SCHEMA {space} TO {who}", f"CREATE ON SCHEMA {space} FROM {who}"
            lines = [f"GRANT {guest};", *lines, f"REVOKE {leave};"]
        return self.said(entry, "\n".join(lines))

    def given_away(self, entry: Entry) -> list[str]:
        """What gives it to its owner: all that its script says besides how it is made."""
        own = entry.statement.splitlines()
        lines = unrestricted(self.script(entry)).splitlines()
        return [line for line in lines if line.startswith("ALTER ") and " OWNER TO " in line and line not in own]

    def grant(self, entry: Entry) -> bool:
        """One right after the other, each as who gave it where we may be that, and else as ourselves."""
        giver, whole = "", True
        for statement in statements(entry.statement):
            if statement.startswith(AS_SOMEBODY):
                giver = statement[len(AS_SOMEBODY) :]
            elif statement.startswith("RESET SESSION AUTHORIZATION"):
                giver = ""
            elif not (giver and self.said(entry, f"SET LOCAL ROLE {giver}; {statement}")):
                whole = self.said(entry, statement) and whole
        return whole

    def said(self, entry: Entry, text: str) -> bool:
        return self.refusal(entry, text) is None

    def refusal(self, entry: Entry, text: str) -> Reason | None:
        try:
            fetch(self.session, "BEGIN")
            fetch(self.session, text)
            fetch(self.session, "COMMIT")
        except Error as error:
            fetch(self.session, "ROLLBACK")
            cause = error.__cause__
            code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
            reason = Reason(first_line(error), code)
            if entry.id not in self.reasons:
                say(f"{entry.name}: {reason.text}")
            return self.reasons.setdefault(entry.id, reason) and reason
        return None


def unrestricted(script: str) -> str:
    """Without the two words to psql with which newer programs frame a script."""
    found = RESTRICTED.search(script)
    if not found:
        return script
    head, tail = script[: found.start()], script[found.end() :]
    body, _, rest = tail.rpartition(f"\\unrestrict {found.group(1)}")
    return head + body + rest


def looked_up(script: str, path: str) -> str:
    return script.replace(NOWHERE, f"SELECT pg_catalog.set_config('search_path', {literal(path)}, false);\n", 1)


def statements(text: str) -> list[str]:
    """Of GRANTs and REVOKEs, where a semicolon may be in a name."""
    found = [""]
    for word in WORDS.findall(text):
        if word == ";":
            found.append("")
        else:
            found[-1] += word
    return [one.strip() for one in found if one.strip()]
