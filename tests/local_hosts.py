"""Folders of this machine as hosts: a real bash session over each, with a service manager of twenty lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.engine.local import LocalChannel, open_local
from tasks.engine.session import Session, new_nonce
from tasks.model.config import Environment, Host, Service, Stage
from tasks.remote.library import LEASE_SECONDS, opening

MANAGER = r"""
# What runs is a file; `.sick` in a release keeps its services from starting.
fake_prepare() { mkdir -p "$RUNNING"; }
fake_start() { if [ -e "$RELEASES/$2/.sick" ]; then : >"$RUNNING/failed.$1@$2"; else : >"$RUNNING/$1@$2"; fi; }
fake_stop() { rm -f "$RUNNING/$1@$2"; }
fake_restart() { current_id >"$RUNNING/$1"; }
fake_state() {
  if [ "$(kind_of "$1")" = beat ]; then
    if [ "$(cat "$RUNNING/$1" 2>/dev/null)" = "$(current_id)" ]; then printf active; else printf inactive; fi
  elif [ -e "$RUNNING/$1@$2" ]; then printf active
  elif [ -e "$RUNNING/failed.$1@$2" ]; then printf failed
  else printf inactive; fi
}
fake_services() { # ID
  local path
  for path in "$RUNNING"/*@"$1"; do
    path=${path##*/} path=${path#failed.}
    case $path in *'*'*) ;; *) printf '%s\n' "${path%@*}" ;; esac
  done
}
fake_told() { printf 'ready'; }
fake_log() { printf 'the log of %s@%s\n' "$1" "$2"; }
fake_ids() {
  local path
  for path in "$RUNNING"/*@*; do
    case $path in */failed.* | *'*'*) ;; *) printf '%s\n' "${path##*@}" ;; esac
  done
}
fake_shutdown() { rm -rf "${RUNNING:?}"/*; }
"""
SERVICES = {"web": Service(kind="web"), "worker": Service(kind="worker", command="work"), "beat": Service(kind="beat")}


def make_stage(*folders: Path, **more: object) -> Stage:
    """A stage whose hosts (`one`, `two` ...) are this machine; each session is given its own folder."""
    names = ("one", "two", "three")[: len(folders)]
    first = Host(name="one", transport="local")
    hosts = tuple(
        replace(first, name=name, roles=("web", "worker", "beat", "db") if name == "one" else ("web", "worker"))
        for name in names
    )
    stage = Stage(
        name="test", application="shop", repository="/nowhere", deploy_to=str(folders[0]), hosts=hosts,
        manager="systemd", services=SERVICES, environment=Environment(file=""),
    )  # fmt: skip
    return replace(stage, **more)  # type: ignore[arg-type]


def opening_for(stage: Stage, folder: Path, nonce: str, lease: float = LEASE_SECONDS, more: str = "") -> str:
    """The real opening, with the fake manager and `lease` in place of ours, over `folder`."""
    own = replace(stage, deploy_to=str(folder))
    words = f"{stage.application} systemd {LEASE_SECONDS} "
    text = opening(own, stage.hosts[0], nonce, {"RUNNING": str(folder / "running")})
    before, session = text.rsplit("\nsession ", 1)
    assert words in session
    session = session.replace(words, f"{stage.application} fake {lease} ").replace(
        f"/run/{stage.application}", str(folder / "run")
    )
    return f"{before}\n{MANAGER}\n{more}\nsession {session}"


def open_host(folder: Path, name: str = "one", lease: float = LEASE_SECONDS, more: str = "") -> Session:
    nonce = new_nonce()
    folder.mkdir(parents=True, exist_ok=True)
    return open_local(name, opening_for(make_stage(folder), folder, nonce, lease, more), nonce)


def process_of(session: Session) -> int:
    """The bash of a local session; it leads a session of its own."""
    assert isinstance(session.channel, LocalChannel)
    return session.channel.process.pid


def processes_in(sid: int) -> list[int]:
    """Living processes of a Unix session, zombies not counted."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == sid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@dataclass
class Library:
    """The bash library over one folder: what it prints, tells and leaves."""

    folder: Path
    session: Session

    def ok(self, said: str) -> dict[str, str]:
        """Facts of a script that must succeed."""
        result = self.session.run(said, timeout=60)
        assert result.ok, (result.error, result.log)
        return result.facts()

    def refused(self, said: str) -> str:
        """The error of a script that must fail."""
        result = self.session.run(said, timeout=60)
        assert not result.ok, result.log
        return result.error[0]


def open_library(folder: Path, more: str = "") -> Iterator[Library]:
    session = open_host(folder, more=more)
    try:
        yield Library(folder, session)
    finally:
        session.close()
