"""Files as a snapshot has them: looked at, restored beside, exchanged; as root. Its last line is the answer.

Beside is `.fab-restore` in shared: root's alone, on the file system of what it takes the place of. In it:
    new/            being restored; once exchanged it is `kept`
    kept/           what --undo brings back, with about.json
    old/            what an earlier restore kept, until this one is over
    exchanging.json which folders are being exchanged, by inode; gone when all are
"""

from __future__ import annotations

import ctypes
import datetime
import grp
import json
import os
import posixpath
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BESIDE = ".fab-restore"
EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2): both names are there at every moment
OPEN_SECONDS = 120
SETUID, SETGID = 1 << 23, 1 << 22  # as restic says modes: Go's os.FileMode
SAMPLE = 5
Asked = dict[str, Any]
Files = dict[str, tuple[str, int, int]]
"""Path below a folder -> type, bytes, seconds of its last change."""


class Refused(Exception):
    """What is wrong, and the next step."""


# --- restic


def environment(asked: Asked) -> dict[str, str]:
    application, key = asked["application"], asked["key"]
    if not shutil.which("restic") or not Path(key).exists():
        raise Refused(f"this server has no key for {asked['repository']}", "fab provision, then fab backup")
    told = {"PATH": os.environ["PATH"], "HOME": "/root", "RESTIC_REPOSITORY": asked["repository"]}
    told.update(RESTIC_PASSWORD_FILE=key, RESTIC_CACHE_DIR="/var/cache/fab-releases/restic")
    try:
        lines = Path(f"/etc/fab-releases/{application}.env").read_text().splitlines()
        told.update((name, value) for name, _, value in (line.partition("=") for line in lines) if name)
    except FileNotFoundError:
        pass
    return told


def restic(asked: Asked, *words: str, seconds: int | None = None, keep: tuple[int, ...] = ()) -> bytes:
    """What it prints. Without a lock of its own: one that a dead run left must not stand in the way of a restore."""
    command = ["restic", "--no-lock", "--quiet", *words]
    try:
        done = subprocess.run(
            command,
            env=environment(asked),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            pass_fds=keep,
        )
    except subprocess.TimeoutExpired:
        raise Refused(
            f"{asked['repository']} did not answer in {seconds} s", "is it there? nothing was touched"
        ) from None
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode:
        print("\n".join(said[-15:]), flush=True)
        reason = next(
            (line for line in said if "atal" in line or "rror" in line), said[-1] if said else "no reason given"
        )
        raise Refused(
            f"{words[0]} of {asked['repository']} failed: {reason}",
            "nothing was touched; is it there, and its key right?",
        )
    return done.stdout


def listed(asked: Asked) -> Asked:
    words = ("snapshots", "--json", "--host", asked["application"], "--tag", "fab-releases")
    found = json.loads(restic(asked, *words, seconds=OPEN_SECONDS) or b"[]") or []
    return {"snapshots": [{"id": one["short_id"], "taken": one["time"]} for one in found]}


def snapshot_of(asked: Asked) -> tuple[dict[str, Files], list[str]]:
    """Folder -> its files, and the names of what is none that may come back. Refused for a folder it has not."""
    tops = {posixpath.join(asked["shared"], folder): folder for folder in asked["folders"]}
    found: dict[str, Files] = {}
    odd: list[str] = []
    text = restic(asked, "ls", "--json", "--recursive", asked["snapshot"], *tops)
    for line in text.splitlines():
        node = json.loads(line)
        if node.get("struct_type") != "node":
            continue
        place = node["path"]
        top = next((one for one in tops if place == one or place.startswith(one + "/")), "")
        if place in tops:
            if node["type"] != "dir":
                raise Refused(f"{place} was no folder then, but a {node['type']}", "take another date")
            found[tops[place]] = {}
        elif not plain(place) or (top and is_odd(node)):
            odd.append(place)
        elif top and node["type"] != "dir":
            name = place[len(top) + 1 :]
            found[tops[top]][name] = (node["type"], int(node.get("size") or 0), second(node.get("mtime", "")))
    missing = [folder for folder in asked["folders"] if folder not in found]
    if missing:
        raise Refused(
            f"the snapshot has no {', '.join(missing)}", "take another date, or name a folder it has by --path"
        )
    return found, odd


def is_odd(node: Asked) -> bool:
    """Devices, pipes, sockets, and what would run as somebody else."""
    mode = int(node.get("mode") or 0)
    runs_as = mode & SETUID or (mode & SETGID and node["type"] == "file")
    return node["type"] not in ("file", "dir", "symlink") or bool(runs_as)


def plain(place: str) -> bool:
    return place == posixpath.normpath(place) and "\0" not in place


def second(moment: str) -> int:
    """2026-11-22T22:40:45.123456789+01:00, in any zone."""
    whole, _, rest = moment.replace("Z", "+00:00").partition(".")
    zone = rest.lstrip("0123456789") if rest else ""
    try:
        return int(datetime.datetime.fromisoformat(whole + zone).timestamp())
    except ValueError:
        return 0


# --- what is there


def live_files(path: str) -> Files:
    found: Files = {}
    for folder, _, files in os.walk(path):
        inner = os.path.relpath(folder, path)
        links = [entry.name for entry in os.scandir(folder) if entry.is_symlink() and entry.name not in files]
        for name in (*files, *links):
            try:
                about = Path(folder, name).lstat()
            except FileNotFoundError:
                continue
            kind = "file" if stat.S_ISREG(about.st_mode) else "symlink" if stat.S_ISLNK(about.st_mode) else "other"
            size = about.st_size if kind == "file" else 0
            found[posixpath.normpath(posixpath.join(inner, name))] = (kind, size, int(about.st_mtime))
    return found


def look(asked: Asked) -> Asked:
    """What a restore would change. Nothing is."""
    for folder in asked["folders"]:
        exchangeable(asked["shared"], folder)
    snapshot, odd = snapshot_of(asked)
    refuse_odd(asked, odd)
    told = {}
    for folder, then in snapshot.items():
        now = live_files(posixpath.join(asked["shared"], folder))
        links = {name for name, one in then.items() if one[0] == "symlink"}
        changed = [name for name in then if name in now and name not in links and now[name] != then[name]]
        told[folder] = {
            "files": len(then),
            "bytes": sum(one[1] for one in then.values()),
            "added": counted(set(then) - set(now)),
            "removed": counted(set(now) - set(then)),
            "changed": counted(changed),
        }
    room(asked, snapshot)
    return {"folders": told, "left_out": counted(odd)}


def counted(names: Any) -> Asked:
    shown = [name.encode(errors="surrogateescape").decode(errors="replace") for name in sorted(names)[:SAMPLE]]
    return {"count": len(names), "as": shown}


def refuse_odd(asked: Asked, odd: list[str]) -> None:
    if odd and not asked["leave_out"]:
        told = counted(odd)
        more = f" and {len(odd) - SAMPLE} more" if len(odd) > SAMPLE else ""
        raise Refused(
            f"the snapshot has what is no ordinary file of its folder: {', '.join(told['as'])}{more}",
            "nothing was touched; look how it came there. --leave-out restores everything else",
        )


def exchangeable(shared: str, folder: str) -> None:
    path = Path(shared, folder)
    if path.resolve() != Path(shared).resolve() / folder:
        raise Refused(
            f"{path} leads elsewhere by a symbolic link", "put a folder in its place, or restore there by hand"
        )
    if path.is_dir() and (path.stat().st_dev != Path(shared).stat().st_dev or path.is_mount()):
        raise Refused(
            f"{path} is a file system of its own, which cannot be exchanged for a folder",
            "docs/how-to/restore-files.md says how by hand",
        )


def room(asked: Asked, snapshot: dict[str, Files]) -> None:
    """Beside what is live and what is kept. A file takes whole blocks, and an inode."""
    about = os.statvfs(asked["shared"])
    count = sum(len(one) for one in snapshot.values())
    needed = sum(
        -(-size // about.f_frsize) * about.f_frsize for files in snapshot.values() for _, size, _ in files.values()
    )
    free = about.f_bavail * about.f_frsize
    if needed + asked["reserve"] > free:
        told = f"{needed >> 20} MB come beside the live files; {free >> 20} MB are free"
        raise Refused(
            f"{told}, and {asked['reserve'] >> 20} MB must stay so",
            f"nothing was touched; make room, or remove what an earlier restore kept: {asked['shared']}/{BESIDE}/kept",
        )
    if about.f_files and about.f_favail < count:
        raise Refused(f"{count} files come beside the live ones, and {about.f_favail} inodes are free", "make room")


# --- beside: by descriptors, for the folders above belong to others, who could put a link in the way


FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LINKS = 40


def opened(path: str, above: int | None = None) -> int:
    """Of an absolute path, links are followed only where nobody but root could have put them."""
    if above is not None:
        return os.open(path, FOLDER, dir_fd=above)
    for _ in range(LINKS):
        descriptor, parts, place = os.open("/", FOLDER), [one for one in path.split("/") if one], "/"
        while parts:
            name = parts.pop(0)
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                break
            below = os.open(name, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, place = below, posixpath.join(place, name)
        else:
            return descriptor
        holder, link = os.fstat(descriptor), os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if holder.st_uid or link.st_uid or holder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refused(f"{place}/{name} is a link that somebody else may have put there", "move it away")
        path = posixpath.normpath(posixpath.join(place, os.readlink(name, dir_fd=descriptor), *parts))
        os.close(descriptor)
    raise Refused(f"{path} is reached by too many links", "look where they lead")


def beside(asked: Asked) -> int:
    shared = opened(asked["shared"])
    if not there(BESIDE, shared):
        os.mkdir(BESIDE, 0o700, dir_fd=shared)
    folder = opened(BESIDE, shared)
    about = os.fstat(folder)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != 0o700:
        raise Refused(f"{asked['shared']}/{BESIDE} is not root's alone", "look who made it; then move it away")
    return folder


def there(name: str, above: int) -> bool:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(name: str, above: int) -> None:
    if there(name, above):
        shutil.rmtree(f"/proc/self/fd/{above}/{name}")


def write(name: str, told: Asked, above: int) -> None:
    """Durable and whole, or not there."""
    handle = os.open(name + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=above)
    with os.fdopen(handle, "w") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(name + ".part", name, src_dir_fd=above, dst_dir_fd=above)
    os.fsync(above)


def read(name: str, above: int) -> Asked:
    """{} where it is not there."""
    try:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above)) as file:
            told: Asked = json.load(file)
            return told
    except FileNotFoundError:
        return {}


def exchange(one: str, one_above: int, other: str, other_above: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(one_above, os.fsencode(one), other_above, os.fsencode(other), EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def flat(folder: str) -> str:
    return folder.replace("/", "%")


def fill(asked: Asked) -> Asked:
    """new/ is what the snapshot has, checked, owned by name; nothing live is touched."""
    owner = (identity(pwd.getpwnam, asked["user"]).pw_uid, identity(grp.getgrnam, asked["group"]).gr_gid)
    base = beside(asked)
    tidy(asked, base)
    knows_exchange(base)
    snapshot, odd = snapshot_of(asked)
    refuse_odd(asked, odd)
    room(asked, snapshot)
    os.mkdir("new", 0o700, dir_fd=base)
    new = opened("new", base)
    try:
        fetch(asked, new)
        for folder, then in snapshot.items():
            judge(asked, folder, then, new, owner)
        ctypes.CDLL(None).syncfs(new)
    except BaseException:
        remove("new", base)
        raise
    return {"files": sum(len(one) for one in snapshot.values())}


def identity(known: Any, name: str) -> Any:
    try:
        return known(name)
    except KeyError:
        raise Refused(f"there is no account or group {name}", "fab provision makes it") from None


def knows_exchange(base: int) -> None:
    for name in ("one", "other"):
        remove(name, base)
        os.mkdir(name, 0o700, dir_fd=base)
    try:
        exchange("one", base, "other", base)
    except OSError as problem:
        raise Refused(
            f"this file system cannot exchange two folders ({problem.strerror})",
            "docs/how-to/restore-files.md says how by hand",
        ) from None
    finally:
        remove("one", base)
        remove("other", base)


def fetch(asked: Asked, new: int) -> None:
    """restic makes the whole path, and reads everything again that it has written."""
    os.mkdir("tree", 0o700, dir_fd=new)
    tree = opened("tree", new)
    tops = {folder: posixpath.join(asked["shared"], folder) for folder in asked["folders"]}
    words = [word for top in tops.values() for word in ("--include", top)]
    restic(asked, "restore", asked["snapshot"], "--verify", "--target", f"/proc/self/fd/{tree}", *words, keep=(tree,))
    for folder, top in tops.items():
        above, last = posixpath.split(top)
        from_ = tree
        for part in above.strip("/").split("/"):
            from_ = opened(part, from_)
        os.rename(last, flat(folder), src_dir_fd=from_, dst_dir_fd=new)
    remove("tree", new)


def judge(asked: Asked, folder: str, then: Files, new: int, owner: tuple[int, int]) -> None:
    """As many files and bytes as the snapshot says, none that leads away; then whose they are, by name.

    A change of owner also takes setuid bits and file capabilities (chown(2)).
    """
    name, odd = flat(folder), []
    names: dict[int, list[str]] = {}
    links: dict[int, int] = {}
    size = count = 0
    for inner, entry, above in walked(name, new):
        about = os.stat(entry, dir_fd=above, follow_symlinks=False)
        place = posixpath.join(folder, inner, entry)
        if leads_away(asked, folder, inner, entry, about, above):
            odd.append(place)
            if asked["leave_out"]:
                os.unlink(entry, dir_fd=above)
            continue
        if stat.S_ISREG(about.st_mode):
            size += about.st_size
            if about.st_nlink > 1:
                names.setdefault(about.st_ino, []).append(place)
                links[about.st_ino] = about.st_nlink
        count += not stat.S_ISDIR(about.st_mode)
        os.chown(entry, *owner, dir_fd=above, follow_symlinks=False)
    outside = [place for inode, places in names.items() if len(places) != links[inode] for place in places]
    if outside:
        raise Refused(f"hard links to files outside of {folder}: {', '.join(outside[:SAMPLE])}", "nothing was touched")
    refuse_odd(asked, odd)
    left_out = sum(place[len(folder) + 1 :] in then for place in odd)
    wanted = len(then) - left_out, sum(one[1] for one in then.values())
    if (count, size) != wanted:
        told = f"{folder} came back with {count} files of {size} bytes, the snapshot has {wanted[0]} of {wanted[1]}"
        raise Refused(told, "nothing was touched; run it again")
    os.chown(name, *owner, dir_fd=new, follow_symlinks=False)
    os.chmod(name, 0o2770, dir_fd=new)


def walked(top: str, above: int) -> Iterator[tuple[str, str, int]]:
    """(folder below top, name, descriptor of its folder), never through a link."""
    for path, folders, files, descriptor in os.fwalk(top, dir_fd=above, follow_symlinks=False):
        inner = "" if path == top else path[len(top) + 1 :]
        for entry in (*folders, *files):
            yield inner, entry, descriptor


def leads_away(asked: Asked, folder: str, inner: str, entry: str, about: os.stat_result, above: int) -> bool:
    kind = about.st_mode
    if stat.S_ISLNK(kind):
        return link_leads_away(asked, folder, inner, os.readlink(entry, dir_fd=above))
    if stat.S_ISREG(kind):
        return bool(kind & (stat.S_ISUID | stat.S_ISGID))
    return not stat.S_ISDIR(kind)


def link_leads_away(asked: Asked, folder: str, inner: str, target: str) -> bool:
    """`..` may come first only: behind the name of another link it would not lead where it seems to."""
    top = posixpath.join(asked["shared"], folder) + "/"
    depth = len(inner.split("/")) if inner else 0
    if target.startswith("/"):
        depth, target = 0, target[len(top) :] if target.startswith(top) else ".."
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
    return ups > depth or ".." in parts[ups:]


def extract(asked: Asked) -> Asked:
    """Single files into a folder that is root's alone, which is emptied first."""
    into = Path(asked["into"])
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700, parents=True)
    words = [word for path in asked["paths"] for word in ("--include", path)]
    restic(asked, "restore", asked["snapshot"], "--verify", "--target", str(into), *words)
    odd = [str(path)[len(str(into)) :] for path in into.rglob("*") if not is_ordinary(path.lstat())]
    if odd:
        shutil.rmtree(into)
        raise Refused(f"no ordinary files in the snapshot: {', '.join(odd[:SAMPLE])}", "nothing was touched")
    return {"files": sum(path.is_file() for path in into.rglob("*"))}


def is_ordinary(about: os.stat_result) -> bool:
    """A folder, or a file of one name that runs as nobody else."""
    runs_as = about.st_mode & (stat.S_ISUID | stat.S_ISGID)
    return stat.S_ISDIR(about.st_mode) or (stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and not runs_as)


# --- the exchange


def swap(asked: Asked, incoming: str = "new") -> Asked:
    """Each folder in one moment. `incoming` holds what was live afterwards, and is kept."""
    base = beside(asked)
    side, folders = opened(incoming, base), asked["folders"]
    write("about.json", {"folders": folders, "until": asked["now"], "run": asked["run"]}, side)
    inodes = {folder: os.stat(flat(folder), dir_fd=side).st_ino for folder in folders}
    write("exchanging.json", {"side": incoming, "inodes": inodes}, base)
    for folder in folders:
        with_live(asked, folder, side)
    if incoming == "new":
        if there("kept", base):
            os.rename("kept", "old", src_dir_fd=base, dst_dir_fd=base)
        os.rename("new", "kept", src_dir_fd=base, dst_dir_fd=base)
    os.unlink("exchanging.json", dir_fd=base)
    os.fsync(base)
    return {"swapped": folders}


def with_live(asked: Asked, folder: str, side: int) -> None:
    """What is live may be gone altogether: that is what restores are for."""
    above = opened(asked["shared"])
    *parents, last = folder.split("/")
    for part in parents:
        above = opened(part, above)
    if not there(last, above):
        os.mkdir(last, 0o755, dir_fd=above)
    exchange(last, above, flat(folder), side)
    os.fsync(above)


def swap_back(asked: Asked) -> Asked:
    """What the last restore kept is live again, and what was live is kept."""
    base = beside(asked)
    tidy(asked, base)
    return swap(dict(asked, folders=kept(asked)["folders"]), "kept")


def kept(asked: Asked) -> Asked:
    """Of what --undo would bring back; {} where there is nothing."""
    if not Path(asked["shared"], BESIDE).is_dir():
        return {}
    base = beside(asked)
    return read("about.json", opened("kept", base)) if there("kept", base) else {}


def unswap(asked: Asked) -> Asked:
    """Undo of either, safe where the run did not get so far."""
    base = beside(asked)
    settle(asked, base)
    about = kept(asked)
    if about.get("run") == asked["run"]:
        swap(dict(asked, folders=about["folders"]), "kept")
        if there("old", base):
            remove("kept", base)
            os.rename("old", "kept", src_dir_fd=base, dst_dir_fd=base)
    clear(base)
    return {}


def finish(asked: Asked) -> Asked:
    remove("old", beside(asked))
    return {}


def tidy(asked: Asked, base: int) -> None:
    """What a run that died left is named, and cleaned."""
    settle(asked, base)
    for name in clear(base):
        print(f"warning a run was cut off: {asked['shared']}/{BESIDE}/{name} is removed", flush=True)


def settle(asked: Asked, base: int) -> None:
    """Half an exchange is taken back; a whole one is written down as such."""
    begun = read("exchanging.json", base)
    if begun and there(begun["side"], base):
        side = opened(begun["side"], base)
        for folder, inode in begun["inodes"].items():
            live = Path(asked["shared"], folder)
            if live.exists() and live.lstat().st_ino == inode:
                with_live(asked, folder, side)
        print(f"warning a run was cut off while it exchanged {', '.join(begun['inodes'])}: taken back", flush=True)
    if begun:
        os.unlink("exchanging.json", dir_fd=base)
    if there("old", base) and not there("kept", base):
        os.rename("old", "kept", src_dir_fd=base, dst_dir_fd=base)


def clear(base: int) -> list[str]:
    """The names of what was removed."""
    names = [name for name in ("new", "old") if there(name, base)]
    for name in names:
        remove(name, base)
    return names


VERBS = {
    "list": listed,
    "look": look,
    "fill": fill,
    "extract": extract,
    "swap": swap,
    "swap-back": swap_back,
    "unswap": unswap,
    "finish": finish,
    "kept": kept,
}
SHORT = ("swap", "swap-back", "unswap", "finish")
"""Nothing but a power loss may end these half-way."""


def main(verb: str, asked: Asked) -> int:
    if verb in SHORT:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
    try:
        print(json.dumps(VERBS[verb](asked)))
    except Refused as problem:
        print(json.dumps({"error": problem.args[0], "hint": problem.args[1]}))
        return 1
    except OSError as problem:
        print(
            json.dumps(
                {"error": f"{problem.filename or asked['shared']}: {problem.strerror}", "hint": "df -h; fab check"}
            )
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
