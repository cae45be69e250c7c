"""Makes restore points that can be trusted and goes back to them: written aside, read whole, named last."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator

import project_postgres
import project_remarks
import project_retention
import project_sequence
import project_sqlite
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from project_answer import ROOT, Refused, tell
from project_blockers import await_backup
from project_plan import reach
from project_sessions import is_gone, lift_limits

PROOF = ".drill"  # beside a backup that was restored and found right: when, and in how many seconds
ENGINES = {"postgresql": project_postgres, "sqlite": project_sqlite}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TOLD = {"engine": str, "bytes": int, "sha256": str, "rows": dict, "applied": list, "taken_at": str, "release": str,
        "server_version": str, "encoding": str}  # fmt: skip


def restore_point(arguments: dict) -> dict:
    """Write DIRECTORY/NAME.dump (or .sqlite3), then NAME.json; without its manifest a file is not a restore point."""
    connection, engine = opened(arguments)
    directory, name = place(arguments)
    if "patience" in arguments:  # before it, or it would be as old as the wait
        await_backup(connection, arguments["patience"])
    os.umask(0o077)
    directory.mkdir(parents=True, exist_ok=True)
    manifest, data = directory / f"{name}.json", directory / f"{name}{engine.SUFFIX}"
    needed = engine.size(connection)
    parts = [directory / f"{name}{ending}.part" for ending in (engine.SUFFIX, ".json")]
    with being_written(parts[1]):
        clear(directory)
        if manifest.exists() or data.exists():
            raise Refused(f"There is a restore point {name} already.", "Take another name; they are never overwritten.")
        check_space(directory, needed)
        try:
            facts = {} if "said" in arguments else {"sequence": project_sequence.next_number(directory)}
            taken_at = datetime.now(timezone.utc).isoformat(timespec="seconds")  # what comes later need not be in it
            facts.update(engine.dump(connection, parts[0]))
            engine.read_whole(connection, parts[0])
            facts.update(engine.tried(connection, parts[0], earlier(directory)))
            facts["leaves_out"] = sum(not one["follows"] for one in facts["left_out"])
            facts.update(name=name, application=application(), engine=connection.vendor, file=data.name,
                         bytes=parts[0].stat().st_size, sha256=digest(parts[0]), database_bytes=needed,
                         release=os.path.basename(ROOT), taken_at=taken_at)  # fmt: skip
            facts.update(arguments.get("said", {}))
            add_remarks(connection, directory, facts)
            parts[1].write_text(json.dumps(facts, indent=1))
            for part, final in ((parts[0], data), (parts[1], manifest)):
                flush(part)
                os.replace(part, final)
            flush(directory)
        except BaseException:
            for path in (manifest, *parts, data):
                path.unlink(missing_ok=True)
            raise
    return {**facts, "rows": sum(facts["rows"].values()), "applied": len(facts["applied"]), "manifest": str(manifest)}


def earlier(directory: Path) -> list[dict]:
    """The newest manifests here and beside, where deploys have theirs."""
    paths = sorted(directory.parent.glob("*/*.json"), key=lambda path: path.stat().st_mtime)[-5:]
    found = []
    for path in paths:
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return [manifest for manifest in reversed(found) if isinstance(manifest, dict)]


def backup(arguments: dict) -> dict:
    """A restore point named after the moment; then the ones nobody needs any more go, by the policy in `keep`."""
    directory = Path(arguments["directory"])
    with free_name(directory) as name:
        taken = restore_point({**arguments, "name": name})
    for remark in taken["remarks"]:
        tell(remark)
    numbers = project_sequence.numbers(directory)
    names = list(numbers)
    kept = project_retention.decide(names, proven(directory), **arguments["keep"], now=name, numbers=numbers)
    dropped = sorted(set(names) - set(kept))
    for old in dropped:
        remove(directory, old)
    return {**taken, "dropped": dropped}


def add_remarks(connection, directory: Path, facts: dict) -> None:
    """What is not in it, and what pg_dump warned of. Where clocks disagree one of them was wrong, and nobody knows
    which: what is newer is known by the number.
    """
    found = project_remarks.absent(connection)
    warned = [line.replace("warning: ", "", 1) for line in facts.get("remarks", [])]
    facts.update(not_in_it=found["not_in_it"], remarks=[*found["remarks"], *warned])
    later = project_sequence.disagreeing(directory, facts["taken_at"]) if "sequence" in facts else ""
    if later:
        date = f"{facts['taken_at']} by the clock"
        facts["remarks"].append(f"it was taken after {later}, though its date is earlier, {date}: one was wrong")


def remove(directory: Path, name: str) -> None:
    for path in (directory / f"{name}.json", *directory.glob(f"{name}.*")):  # without its manifest it is none
        path.unlink(missing_ok=True)


@contextmanager
def free_name(directory: Path) -> Iterator[str]:
    """This second's, or with a number where the timer and a person take one in the same second."""
    directory.mkdir(parents=True, exist_ok=True)
    now = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    for name in (now, *(f"{now}-{number}" for number in range(2, 10))):
        claim = directory / f"{name}.part"
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            if not (directory / f"{name}.json").exists():
                yield name
                return
        finally:
            claim.unlink(missing_ok=True)
    raise Refused(f"Nine backups were taken in the second {now}.", "Try again.")


@contextmanager
def being_written(part: Path) -> Iterator[None]:
    """Held as long as we live: whoever gets this lock of another one's file knows that its writer is dead."""
    with part.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            part.unlink(missing_ok=True)


def clear(directory: Path) -> None:
    """What writers left that were killed; one that is still at work keeps its own."""
    for part in directory.glob("*.json.part"):
        with part.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            name = part.name[: -len(".json.part")]
            whole = (directory / f"{name}.json").exists()
            for path in directory.glob(f"{name}.*.part" if whole else f"{name}.*"):
                path.unlink(missing_ok=True)


def application() -> str:
    """As the release was built for; "" where nobody said."""
    try:
        return json.loads((Path(ROOT) / ".release" / "services.json").read_text())["application"]
    except (OSError, ValueError, KeyError):
        return ""


def proven(directory: Path) -> list[str]:
    return [path.name[: -len(PROOF)] for path in directory.glob(f"*{PROOF}")]


def restore(arguments: dict) -> dict:
    """Put a restore point in the place of the live database; `plan_only` says what would be lost, touching nothing."""
    connection = connections[arguments.get("database", "default")]
    lost = None
    if connection.vendor == "postgresql" and is_gone(connection):
        if arguments.get("plan_only"):
            return preview_of_gone(connection, *place(arguments))
        lost = made_anew(connection, *place(arguments))
    connection, engine = opened(arguments)
    directory, name = place(arguments)
    manifest = verified(connection, engine, directory, name)
    data = directory / manifest["file"]
    engine.check_restore(connection, data, manifest)
    engine.check_swap(connection)
    if arguments.get("plan_only"):
        now = engine.rows_now(connection)
        changed = {table: now.get(table, 0) - manifest["rows"].get(table, 0) for table in {*now, *manifest["rows"]}}
        return {"taken_at": manifest["taken_at"], "release": manifest["release"], "applied": manifest["applied"],
                "newer_rows": {table: rows for table, rows in sorted(changed.items()) if rows},
                **engine.preview(connection, data, manifest),
                **schema(connection, set(manifest["applied"]))}  # fmt: skip
    done = engine.restore(connection, data, manifest, promised(arguments), arguments.get("hold", ""))
    if lost is not None:  # nobody wants an empty database back
        engine.drop_beside(connection, done["kept"])
        remarks = [*done["remarks"], *(f"not restored (missing privileges): {one}" for one in lost)]
        done.update(kept="", not_carried=[*lost, *done["not_carried"]], remarks=remarks)
    return {"restored": name, **done}


def preview_of_gone(connection, directory: Path, name: str) -> dict:
    manifest = verified(connection, project_postgres, directory, name)
    known = {".".join(key) for key in MigrationLoader(None).disk_migrations}
    applied = set(manifest["applied"])
    return {"taken_at": manifest["taken_at"], "release": manifest["release"], "applied": manifest["applied"],
            "newer_rows": {}, "left_out": manifest.get("left_out", []), "not_carried": [], "gone": True,
            "missing": sorted(known - applied), "ahead": sorted(applied - known)}  # fmt: skip


def made_anew(connection, directory: Path, name: str) -> list[str]:
    """What could not be set for the database in the place of the one that was dropped."""
    manifest = verified(connection, project_postgres, directory, name)
    tell(f"the database {connection.settings_dict['NAME']} is gone: it is made anew, as {name} says it was")
    return project_postgres.make_anew(connection, directory / manifest["file"], manifest)


def promised(arguments: dict) -> Callable[[str], None]:
    """Writes down what a swap will keep, before it: cut off right after it, nobody could say the name any more."""

    def write(kept: str) -> None:
        with open(arguments["promise"], "w") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())

    return write if arguments.get("promise") else lambda _: None


def schema(connection, applied: set) -> dict:
    """`missing`: what this release would migrate after the restore; `ahead`: what it does not know and never had."""
    executor = MigrationExecutor(connection)
    known = {".".join(key) for key in executor.loader.disk_migrations}
    now = {".".join(key) for key in executor.loader.applied_migrations}
    return {"missing": sorted(known - applied), "ahead": sorted(applied - known - now)}


def undo_restore(arguments: dict) -> dict:
    """Swap back what `restore` kept; what was live is kept in turn. `if_kept`: it may not have come so far."""
    connection, engine = opened(arguments)
    if arguments.get("if_kept") and not engine.is_kept(connection, arguments["kept"]):
        return {"kept": ""}
    engine.check_swap(connection)
    return engine.undo(connection, arguments["kept"], promised(arguments), arguments.get("hold", ""))


def opened(arguments: dict) -> tuple:
    connection = connections[arguments.get("database", "default")]
    if connection.vendor not in ENGINES:
        raise Refused(f"There are no restore points for {connection.vendor}.", "Use the tools of that database.")
    reach(connection)
    if connection.vendor == "postgresql":
        lift_limits(connection)  # it has nothing to say for hours
    return connection, ENGINES[connection.vendor]


def place(arguments: dict) -> tuple[Path, str]:
    name = arguments["name"]
    if not NAME.fullmatch(name):
        raise Refused(f"Not a name for a restore point: {name!r}.", "Letters, digits, dots, dashes and underscores.")
    return Path(arguments["directory"]), name


def verified(connection, engine, directory: Path, name: str) -> dict:
    """The manifest, once size and SHA-256 say that the file is, byte for byte, what was read whole before its name."""
    manifest = {**described(directory, name), "file": f"{name}{engine.SUFFIX}"}
    if manifest["engine"] != connection.vendor:
        raise Refused(f"{name} is of {manifest['engine']}, the database is {connection.vendor}.", "Name another one.")
    if manifest.get("application") and application() and manifest["application"] != application():
        raise Refused(f"{name} is of another application, {manifest['application']}; this one is {application()}.",
                      f"Look how it came to {directory}; name another one. Nothing was touched.")  # fmt: skip
    data = directory / manifest["file"]
    if not data.exists() or data.stat().st_size != manifest["bytes"] or digest(data) != manifest["sha256"]:
        raise Refused(f"The restore point {name} is not what was written: size or SHA-256 differ.",
                      "Do not use it; name another one. Nothing was touched.")  # fmt: skip
    return manifest


def described(directory: Path, name: str) -> dict:
    path = directory / f"{name}.json"
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"No restore point {name} in {directory}.", f"Its manifest: {error}.") from None
    found = manifest if isinstance(manifest, dict) else {}
    wrong = [word for word, kind in TOLD.items() if not isinstance(found.get(word), kind)]
    if wrong:
        raise Refused(f"No restore point {name} in {directory}.", f"Its manifest does not say: {', '.join(wrong)}.")
    return found


def check_space(directory: Path, needed: int) -> None:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise Refused(f"{directory} has {free:,} bytes free, the database has {needed:,}.", "Make room and try again.")


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
