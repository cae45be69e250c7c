"""Media and configuration as a snapshot has them: what the program on the server is asked, and what it says."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from ..model.call import Call, call
from ..model.config import Host, Stage, megabytes
from ..model.machine import Part, Thing
from ..model.shell import Line, Script, script
from ..server.make import configuration, secret_file
from ..server.make import file as look_file
from . import health, machine, services
from .library import templates
from .machine.bouncer import USERS
from .machine.stores import Seeds, read_environment

CONFIGURATION = PurePosixPath("/var/lib/fab-releases/configuration")
HERE = "/var/backups/fab-releases"
"""Where the server itself keeps copies of each application as long as no repository is named."""
ENVIRONMENT = "environment"
"""The part that is the application's variables: of its content only names are shown."""
ABSENT = "absent"
"""Said of a file in what a restore kept: there was none."""
SERVED = (ENVIRONMENT, "shared-files", "units")
"""Parts that services take up when they start."""


def _asked(stage: Stage, verb: str, **more: Any) -> Script:
    told = {
        "application": stage.known_as,
        "repository": stage.backup.repository or f"{HERE}/{stage.known_as}",
        "key": f"/etc/fab-releases/{stage.known_as}{'' if stage.backup.repository else '.local'}.key",
        "shared": str(stage.layout.shared),
        "user": stage.app_user,
        "group": stage.app_user,
        "reserve": megabytes(stage.minimum_free) << 20,
        "leave_out": False,
    }
    program = (templates() / "provision" / "snapshots.py").read_text()
    return script(("snapshot", program, verb, json.dumps(told | more)))


def listing(stage: Stage) -> Script:
    """Each of these answers a fact `snapshot`: JSON."""
    return _asked(stage, "list")


@dataclass(frozen=True)
class Media:
    """Which folders of which snapshot. `run` is a word of the run's own."""

    stage: Stage
    run: str
    now: str
    """An ISO time: until when what is kept was live."""
    folders: tuple[str, ...] = ()
    snapshot: str = ""
    leave_out: bool = False
    """Leave out what is no ordinary file instead of refusing."""

    def _asked(self, verb: str) -> Script:
        told = {"folders": self.folders, "snapshot": self.snapshot, "leave_out": self.leave_out}
        return _asked(self.stage, verb, run=self.run, now=self.now, **told)

    def look(self) -> Script:
        return self._asked("look")

    def kept(self) -> Script:
        return self._asked("kept")

    def fill(self) -> Script:
        return self._asked("fill")

    def swap(self, who: str, note: str) -> Script:
        return self._asked("swap") + self._usable() + self._noted(who, note)

    def swap_back(self, who: str, note: str) -> Script:
        return self._asked("swap-back") + self._usable() + self._noted(who, note)

    def unswap(self) -> Script:
        """Undo of either, safe where the run did not get so far."""
        return self._asked("unswap")

    def finish(self) -> Script:
        return self._asked("finish")

    def _usable(self) -> Script:
        return script(("usable", self.stage.app_user, *self.folders))

    def _noted(self, who: str, note: str) -> Script:
        return script(("journal_as", self.stage.primary.user, who, note))


# --- configuration


@dataclass(frozen=True)
class File:
    """One file of the configuration; owner and mode are what provisioning says, by name; group "" is as it is now."""

    path: str
    owner: str
    group: str
    mode: str
    secret: bool = False
    """Its content is never shown."""
    before: Script = field(default_factory=Script)
    """What is said before it is replaced."""
    gone: bool = False
    """There was none: it is removed."""

    @property
    def name(self) -> str:
        return f"file {self.path}"


@dataclass(frozen=True)
class Piece:
    """Files that go live together, judged and put to use as provisioning does it."""

    part: Part
    files: tuple[File, ...]


def pieces(stage: Stage, host: Host, facts: dict[str, str]) -> tuple[Piece, ...]:
    """The files provisioning writes, the environment file and `shared_files`, of those that are sent away. `facts` as
    of `identify`.
    """
    sent = ("/etc/", f"{stage.layout.shared}/")
    own = (_piece(part, sent) for part in machine.parts(stage, host, facts, Seeds().in_place))
    return tuple(piece for piece in (*own, *_ours(stage, host)) if piece.files)


def _ours(stage: Stage, host: Host) -> Iterator[Piece]:
    def secret(path: str) -> File:
        return File(str(stage.layout.shared / path), host.user, "", "640", secret=True)

    yield Piece(Part("shared-files", "shared files", ()), tuple(secret(one) for one in stage.shared_files))
    if stage.environment.file:
        yield Piece(Part(ENVIRONMENT, "variables", ()), (secret(stage.environment.file),))


def _piece(part: Part, sent: tuple[str, ...]) -> Piece:
    return Piece(part, tuple(one for thing in part.things for one in _files(thing) if one.path.startswith(sent)))


def _files(thing: Thing) -> Iterator[File]:
    """Of a file in which only some lines are ours, the whole file."""
    match thing.look:
        case Call("make.file.look"):
            *before, made = thing.make.calls
            assert isinstance(made, Call)
            path, owner, group, mode = (str(made.arguments[name]) for name in ("path", "owner", "group", "mode"))
            yield File(path, owner, group, mode, before=Script(tuple(before)))
        case Call("make.redis_user.look", arguments):
            yield File(str(arguments["path"]), "redis", "redis", "640", secret=True)
        case Call("make.lines.look_last", arguments):
            yield File(str(arguments["path"]), "redis", "redis", "640", secret=True)
        case Call("make.lines.look_block", arguments):
            yield File(str(arguments["path"]), "postgres", "postgres", "640")
        case Call("make.bouncer_users.look"):
            yield File(USERS, "postgres", "postgres", "640", secret=True)


def folder(stage: Stage) -> PurePosixPath:
    return CONFIGURATION / stage.known_as


def extract(stage: Stage, pieces: tuple[Piece, ...], snapshot: str) -> Script:
    paths = [file.path for piece in pieces for file in piece.files]
    return _asked(stage, "extract", snapshot=snapshot, paths=paths, into=str(folder(stage) / "wanted"))


def looks(pieces: tuple[Piece, ...], tree: str) -> Script:
    """Told as things are: under the file's name as it is, and under "then" and its name as `tree` has it."""
    calls: list[Line | Call[object]] = []
    for file in (file for piece in pieces for file in piece.files):
        if file.secret:
            calls.append(call(configuration.look_digest, file.name, file.path))
            calls.append(call(configuration.look_digest, f"then {file.name}", file.path, tree))
        else:
            calls.append(call(look_file.look, file.name, file.path))
            then = (f"then {file.name}", tree, file.path, file.owner, file.group, file.mode)
            calls.append(call(configuration.look, *then))
    return Script(tuple(calls))


def state() -> Script:
    """Marks `begun` with the path of each file that a run which died had begun with; a fact `kept`, until when what
    --undo brings back was live.
    """
    return script(("look_configuration",))


def only(pieces: tuple[Piece, ...], paths: Collection[str]) -> tuple[Piece, ...]:
    less = (replace(piece, files=tuple(file for file in piece.files if file.path in paths)) for piece in pieces)
    return tuple(piece for piece in less if piece.files)


def read(stage: Stage, tree: str = "") -> Script:
    """The environment file, there or in a tree of root's; never shown."""
    if not tree:
        return script(read_environment(stage, stage.primary))
    path = stage.layout.shared / stage.environment.file
    return script(call(secret_file.read, f"{folder(stage) / tree}{path}", "root"))


def changed(pieces: tuple[Piece, ...], found: Mapping[str, str]) -> tuple[Piece, ...]:
    """Each with only the files that differ. Those the snapshot does not have are left alone."""
    less = (replace(piece, files=tuple(_changed(piece.files, found))) for piece in pieces)
    return tuple(piece for piece in less if piece.files)


def _changed(files: Iterable[File], found: Mapping[str, str]) -> Iterator[File]:
    for file in files:
        then, now = then_and_now(file, found)
        if now if then == ABSENT else then and then != now:
            yield replace(file, gone=then == ABSENT)


def then_and_now(file: File, found: Mapping[str, str]) -> tuple[str, str]:
    return found.get(f"then {file.name}", "").rstrip("\n"), found.get(file.name, "").rstrip("\n")


def missing(pieces: tuple[Piece, ...], found: Mapping[str, str]) -> tuple[str, ...]:
    """Paths of files that are there and are not in the snapshot."""
    files = (file for piece in pieces for file in piece.files)
    return tuple(file.path for file in files if found.get(file.name) and not found.get(f"then {file.name}"))


def drop() -> Script:
    return script(("drop_wanted",))


# --- as parts of a plan


def keep(pieces: tuple[Piece, ...]) -> Script:
    paths = tuple(file.path for piece in pieces for file in piece.files)
    return script(call(configuration.keep_all, paths))


def make(piece: Piece, tree: str) -> Script:
    """As provisioning makes a part: judged, put to use, put back when either fails."""
    said = script(("part", piece.part.name))
    for file in piece.files:
        made = call(configuration.make, tree, file.path, file.owner, file.group, file.mode)
        said += file.before + script(made)
    return said + _judged(piece) + piece.part.use + script(("part_done",))


def _judged(piece: Piece) -> Script:
    """What is gone is not looked at; where a judge was for that alone, there is nothing to judge."""
    gone = {file.path for file in piece.files if file.gone}
    calls: list[Line | Call[object]] = []
    for judge in piece.part.check.calls:
        if isinstance(judge, Call):
            calls.append(judge)
            continue
        left = tuple(word for word in judge if str(word) not in gone)
        if left == judge or any(str(word).startswith("/") for word in left):
            calls.append(left)
    return Script(tuple(calls))


def unmake(piece: Piece) -> Script:
    """Undo of `make`: as before this run; nothing where it did not get so far."""
    put_back = call(configuration.put_back, tuple(file.path for file in piece.files))
    said = script(("part", piece.part.name), put_back)
    return said + piece.part.use + script(("part_done",))


def restart(stage: Stage, current: str) -> Script:
    host = stage.primary
    ready = services.await_ready(stage, host, current, "web", "worker") + services.await_beat(stage, host)
    return script(("restart_live",)) + ready


def answers(stage: Stage, current: str) -> Script:
    return script(("site_answers", stage.primary.user, health.in_front(stage, stage.primary, current)))


def restored(stage: Stage, who: str, note: str) -> Script:
    return script(("restored",), ("journal_as", stage.primary.user, who, note))


def given_up() -> Script:
    return script(("given_up",))
