"""The kinds of things a server is made of, as values: how each is looked at and how it is made."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ...model.call import Call, call
from ...model.machine import Part, Thing
from ...model.shell import Line, Script, Secret, Word, script
from ...server.make import directory, lines, ssh_files
from ...server.make import file as files_made

Path = str | PurePosixPath


def packages(*names: str, name: str = "") -> Thing:
    """`name` where there are too many to be named: no two things of a host have one name."""
    wanted = sorted(set(names))
    name = name or f"package{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}"
    return Thing(name, ("look_packages", *wanted), "\n".join(wanted), script(("make_packages", *wanted)))


def account(user: str, *groups: str, login: bool) -> Thing:
    shell = "/bin/bash" if login else "/usr/sbin/nologin"
    want = "\n".join([f"shell {shell}", *(f"group {group}" for group in groups)])
    made = script(("make_account", user, "login" if login else "service", *groups))
    return Thing(f"account {user}", ("look_account", user, *groups), want, made)


def keys(user: str, like: str, more: Iterable[str]) -> Thing:
    """Whoever may log in as `like`, and the holders of `more`, may log in as `user`."""
    name, asked = f"ssh keys of {user}", tuple(more)
    look = call(ssh_files.look_keys, name, user, like, asked)
    return Thing(name, look, "", script(call(ssh_files.make_keys, user, like, asked)))


def known_hosts(user: str, known: tuple[str, ...]) -> Thing:
    """Whom `user` trusts to be who they say, by lines of a known_hosts file."""
    name = f"known hosts of {user}"
    look, made = call(ssh_files.look_known_hosts, name, user, known), call(ssh_files.make_known_hosts, user, known)
    return Thing(name, look, "\n".join(known), script(made))


def folder(path: Path, owner: str, group: str, mode: str) -> Thing:
    """`mode` as stat prints it: "755", "2775"."""
    name, want = f"folder {path}", f"directory, {owner}:{group} {mode}"
    made = call(directory.make, str(path), owner, group, mode)
    return Thing(name, call(directory.look, name, str(path)), want, script(made))


def file(path: Path, text: str, mode: str = "644", owner: str = "root", group: str = "root") -> Thing:
    name, made = f"file {path}", call(files_made.make, str(path), owner, group, mode, text)
    return Thing(name, call(files_made.look, name, str(path)), f"{owner}:{group} {mode}\n{text}", script(made))


def known(path: Path, text: Secret, group: str = "root", mode: str = "600") -> Thing:
    """A secret of root's that is compared where it lies: of what differs only that it does is said."""
    name, made = f"file {path}", call(files_made.make, str(path), "root", group, mode, text)
    look = call(files_made.look_secret, name, str(path), text)
    return Thing(name, look, f"root:{group} {mode}, as it should be", script(made))


def owner(path: Path, user: str, group: str, mode: str) -> Thing:
    """An existing file's, whatever is in it; an empty one where none is."""
    return once(f"owner of {path}", path, user, group, mode, "")


def once(name: str, path: Path, user: str, group: str, mode: str, text: str | Secret) -> Thing:
    """A file that is written once: later only its owner and its mode are looked at."""
    made = call(files_made.make_once, str(path), user, group, mode, text)
    look = call(files_made.look_owner, name, str(path))
    return Thing(name, look, f"regular file, {user}:{group} {mode}", script(made))


def absent(path: Path) -> Thing:
    name = f"no {path}"
    return Thing(
        name, call(files_made.look_absent, name, str(path)), "", script(call(files_made.make_absent, str(path)))
    )


def link(path: Path, target: Path) -> Thing:
    name, made = f"link {path}", call(files_made.make_link, str(path), str(target))
    return Thing(name, call(files_made.look_link, name, str(path)), str(target), script(made))


def unit(name: str) -> Thing:
    """Enabled and running."""
    return Thing(f"unit {name}", ("look_unit", name), "enabled, active", script(("make_unit", name)))


def last_line(path: Path, line: str) -> Thing:
    """Of a file that is Debian's own: what it says later wins."""
    name, made = f"line in {path}", call(lines.make_last, str(path), line)
    return Thing(name, call(lines.look_last, name, str(path), line), line, script(made))


def block(path: Path, text: str, whose: str) -> Thing:
    """Lines of one stage at the end of a file that is the distribution's or somebody else's."""
    name, made = f"lines in {path}", call(lines.make_block, str(path), text, whose)
    return Thing(name, call(lines.look_block, name, str(path), whose), text, script(made))


def part(name: str, title: str, *things: Thing, check: tuple[Word, ...] = (), use: tuple[Word, ...] = ()) -> Part:
    """`check` and `use` are words of a command of the server or of the library."""
    judged = Script((("checked_with", *check),)) if check else Script()
    if not use:
        return Part(name, title, things, judged)
    begun = Thing(f"{name} in use", ("look_begun", name), "in use", Script())
    return Part(name, title, (*things, begun), judged, Script((("use_with", *use),)))


def looks(parts: Iterable[Part], *, python: bool = True) -> Script:
    """What asks for all of them in one go, what is Python in one process; without `python` on the server, of what
    needs none.
    """
    things = [thing for part in parts for thing in part.things]
    calls = [one.look for one in things if isinstance(one.look, Call)]
    said = [_named(one.name, one.look) for one in things if not isinstance(one.look, Call)]
    return Script((*(calls if python else ()), *said))


def _named(name: str, look: Line) -> Line:
    return (look[0], name, *look[1:])


def parse(marks: Iterable[tuple[str, ...]]) -> Mapping[str, str]:
    """(kind, word, ...) as a session heard them -> name of a thing -> what was found."""
    return {
        mark[1]: base64.b64decode(mark[2]).decode(errors="replace")
        for mark in marks
        if len(mark) == 3 and mark[0] == "found"
    }
