"""The kinds of things a server is made of, as values: how each is looked at and how it is made."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ...model.call import Call
from ...model.machine import Part, Thing
from ...model.shell import Script, Secret, Word, script

Path = str | PurePosixPath


def packages(*names: str) -> Thing:
    wanted = sorted(set(names))
    name = "packages" if len(wanted) > 1 else f"package {wanted[0]}"
    return Thing(name, ("look_packages", *wanted), "\n".join(wanted), script(("make_packages", *wanted)))


def account(user: str, *groups: str, login: bool) -> Thing:
    shell = "/bin/bash" if login else "/usr/sbin/nologin"
    want = "\n".join([f"shell {shell}", *(f"group {group}" for group in groups)])
    made = script(("make_account", user, "login" if login else "service", *groups))
    return Thing(f"account {user}", ("look_account", user, *groups), want, made)


def keys(user: str, like: str, more: Iterable[str]) -> Thing:
    """Whoever may log in as `like`, and the holders of `more`, may log in as `user`."""
    return Thing(f"ssh keys of {user}", ("look_keys", user, like, *more), "", script(("make_keys", user, like, *more)))


def folder(path: Path, owner: str, group: str, mode: str) -> Thing:
    """`mode` as stat prints it: "755", "2775"."""
    want = f"directory, {owner}:{group} {mode}"
    return Thing(f"folder {path}", ("look_folder", path), want, script(("make_folder", path, owner, group, mode)))


def file(path: Path, text: str, mode: str = "644", owner: str = "root", group: str = "root") -> Thing:
    made = script(("make_file", path, owner, group, mode, text))
    return Thing(f"file {path}", ("look_file", path), f"{owner}:{group} {mode}\n{text}", made)


def known(path: Path, text: Secret, group: str = "root", mode: str = "600") -> Thing:
    """A secret of root's that is compared where it lies: of what differs only that it does is said."""
    made = script(("make_file", path, "root", group, mode, text))
    return Thing(f"file {path}", ("look_known", path, text), f"root:{group} {mode}, as it should be", made)


def owner(path: Path, user: str, group: str, mode: str) -> Thing:
    """An existing file's, whatever is in it."""
    want = f"regular file, {user}:{group} {mode}"
    return Thing(f"owner of {path}", ("look_owner", path), want, script(("make_owner", path, user, group, mode)))


def absent(path: Path) -> Thing:
    return Thing(f"no {path}", ("look_absent", path), "", script(("make_absent", path)))


def link(path: Path, target: Path) -> Thing:
    return Thing(f"link {path}", ("look_link", path), str(target), script(("make_link", path, target)))


def unit(name: str) -> Thing:
    """Enabled and running."""
    return Thing(f"unit {name}", ("look_unit", name), "enabled, active", script(("make_unit", name)))


def last_line(path: Path, line: str) -> Thing:
    """Of a file that is Debian's own: what it says later wins."""
    return Thing(f"line in {path}", ("look_last_line", path, line), line, script(("make_last_line", path, line)))


def part(name: str, title: str, *things: Thing, check: tuple[Word, ...] = (), use: tuple[Word, ...] = ()) -> Part:
    """`check` and `use` are words of a command of the server or of the library."""
    judged = Script((("checked_with", *check),)) if check else Script()
    if not use:
        return Part(name, title, things, judged)
    begun = Thing(f"{name} in use", ("look_begun", name), "in use", Script())
    return Part(name, title, (*things, begun), judged, Script((("use_with", *use),)))


def looks(parts: Iterable[Part], *, python: bool = True) -> Script:
    """What asks for all of them in one go; without `python` on the server, of what that can say."""
    asked = (thing for part in parts for thing in part.things if python or not isinstance(thing.look, Call))
    return Script(
        tuple(one.look if isinstance(one.look, Call) else (one.look[0], one.name, *one.look[1:]) for one in asked)
    )


def parse(marks: Iterable[tuple[str, ...]]) -> Mapping[str, str]:
    """(kind, word, ...) as a session heard them -> name of a thing -> what was found."""
    return {
        mark[1]: base64.b64decode(mark[2]).decode(errors="replace")
        for mark in marks
        if len(mark) == 3 and mark[0] == "found"
    }
