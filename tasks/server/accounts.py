"""Another account's work, done by that account: a fork of this process that has become it for good."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Callable
from typing import Any

from .refused import Refused
from .values import wire


def run_as(account: str, work: Callable[[], object]) -> Any:
    """What `work` returns; its Refused is raised here as well.

    Only for root, or for what is that account already. `work` has the account's groups, HOME and USER, its own umask,
    and no lock of ours. Its result travels as the wire has it: TypeError for what cannot.
    """
    entry = _known(account)
    if os.geteuid() == entry.pw_uid:
        return work()
    if os.geteuid() != 0:
        raise Refused(f"only root may act as {account}", "run it as the account that provisioning uses")
    return begin_as(account, work)()


def begin_as(account: str, work: Callable[[], object]) -> Callable[[], Any]:
    """As `run_as`, always in a process of its own; what comes back waits for its end."""
    entry = _known(account)
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _as_child(entry, work, writing)
    os.close(writing)

    def ended() -> Any:
        answer = _read_all(reading)
        _, status = os.waitpid(child, 0)
        return _answer(account, answer, status)

    return ended


def _known(account: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(account)
    except KeyError:
        raise Refused(f"there is no account {account}", "fab provision makes it") from None


def exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


def become(entry: pwd.struct_passwd) -> None:
    """For good: groups, ids, environment, folder. The order matters: without root no group can be left."""
    groups = [one.gr_gid for one in grp.getgrall() if entry.pw_name in one.gr_mem]
    os.setgroups(sorted({entry.pw_gid, *groups}))
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    kept = {name: os.environ[name] for name in ("PATH", "LC_ALL", "LANG", "SSH_CONNECTION") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    os.umask(0o022)
    os.chdir("/")


def _as_child(entry: pwd.struct_passwd, work: Callable[[], object], writing: int) -> None:
    """Never returns."""
    status = 1
    try:
        become(entry)
        answer = wire.dumps({"value": work()})
        status = 0
    except Refused as no:
        answer = wire.dumps({"message": no.message, "hint": no.hint})
    except OSError as error:
        place = " ".join(str(one) for one in (error.filename, error.filename2) if one)
        why = error.strerror or str(error)
        answer = wire.dumps({"message": f"{entry.pw_name}, {place}: {why}" if place else why, "hint": ""})
    except Exception as error:
        answer = wire.dumps({"message": f"{type(error).__name__}: {error}", "hint": ""})
    try:
        with os.fdopen(writing, "w") as pipe:
            pipe.write(answer)
        sys.stdout.flush()
    finally:
        os._exit(status)


def _read_all(reading: int) -> str:
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def _answer(account: str, answer: str, status: int) -> Any:
    if not answer:
        raise Refused(f"what was to be done as {account} ended early (status {status})", "run it again")
    told = wire.loads(answer)
    if status != 0:
        raise Refused(told["message"], told["hint"])
    return told["value"]
