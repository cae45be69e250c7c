"""Starts anything of a release with its environment, so that build, migrations and services read the same values.

    /usr/bin/python3 -IS RELEASE/.release/launch.py run NAME          becomes the service NAME of services.json
    /usr/bin/python3 -IS RELEASE/.release/launch.py exec -- CMD ARG   becomes any command, in the release's folder
    /usr/bin/python3 -IS RELEASE/.release/launch.py env               names what the environment file sets

The environment, weakest first: the process's own; `environment.set`; the environment file; RELEASE_ID, RELEASE_ROOT,
VIRTUAL_ENV, PATH and PYTHONDONTWRITEBYTECODE. `set` beats the process, so that a login shell and systemd give a command
the same values.

`env` prints KEY<tab>LINE for every variable of the file, and in a third column the dialects that would read another
value; KEY is `-` where the name itself may be part of a value. Exit 2 and one sentence on stderr when something is
wrong; a value is never printed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from typing import Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Tuple, Union

HERE = os.path.dirname(
    os.path.realpath(__file__)
)  # the real folder, never `current`: a late import must not meet newer code
ROOT = os.path.dirname(HERE)
VENV_PROGRAMS = os.path.join(ROOT, ".venv", "bin")


class Wrong(Exception):
    """Something the reader of one sentence can put right."""


# --- one environment file, four dialects ---


class Assignment(NamedTuple):
    line: int
    key: str
    value: str


class Refusal(NamedTuple):
    """A line the dialect's own reader cannot read, or that would run something."""

    line: int
    why: str


Reading = Iterator[Union[Assignment, Refusal]]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def line_at(text: str, position: int) -> int:
    return 1 + len(re.findall(r"\r\n|\n|\r", text[:position]))


def after(pattern: str, text: str, position: int) -> int:
    """Where the pattern's match at position ends; the position itself when it does not match."""
    match = re.compile(pattern, re.DOTALL).match(text, position)
    return match.end() if match else position


def end_of_line(text: str, position: int) -> int:
    return after(r"[^\r\n]*", text, position)


DOTENV_LINE = re.compile(
    r"""(?:export[^\S\r\n]+|(?!export[^\S\r\n]))
    (?:'(?P<quoted_key>[^']+)'|(?P<key>(?!')[^=\#\s]+))[^\S\r\n]*
    (?:=(?P<gap>[^\S\r\n]*)
       (?:'(?P<single>(?:\\.|[^'\\])*)'|"(?P<double>(?:\\.|[^"\\])*)"|(?P<bare>(?![^\S\r\n]*['"])[^\r\n]*)))?
    (?:[^\S\r\n]*\#[^\r\n]*)?[^\S\r\n]*(?:\r\n|\n|\r|\Z)""",
    re.VERBOSE | re.DOTALL,
)
DOTENV_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
DOTENV_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")


def dotenv_value(match: re.Match[str]) -> Optional[str]:
    if match["single"] is not None:
        return re.sub(r"\\([\\'])", r"\1", match["single"])
    if match["double"] is not None:
        return re.sub(r"\\([\\'\"abfnrtv])", lambda found: DOTENV_ESCAPES.get(found[1], found[1]), match["double"])
    if match["bare"] is None or (match["gap"] and match["bare"].startswith("#")):
        return match["bare"] and ""
    return re.sub(r"\s+#.*", "", match["bare"]).rstrip()


def read_dotenv(text: str, process: Dict[str, str]) -> Reading:
    """As python-dotenv: comments, escapes in double quotes, quotes over several lines, ${NAME} and ${NAME:-default}."""
    text = text[1:] if text.startswith("\ufeff") else text
    known = dict(process)
    position = 0
    while True:
        position = after(r"\s*", text, position)
        if position == len(text):
            return
        line, match = line_at(text, position), DOTENV_LINE.match(text, position)
        value = dotenv_value(match) if match else None
        if text[position] == "#" or match is None or value is None:
            if text[position] != "#":
                yield Refusal(line, "this is not NAME=value, or a quote is not closed")
            position = end_of_line(text, position)
            continue
        key, position = match["key"] or match["quoted_key"], match.end()
        known[key] = DOTENV_REFERENCE.sub(lambda found: known.get(found[1], found[2] or ""), value)
        yield Assignment(line, key, known[key])


def read_decouple(text: str) -> Reading:
    """As python-decouple: a line each, everything after the first `=`, without a pair of quotes around all of it."""
    for line, words in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        key, equals, value = (part.strip() for part in words.strip().partition("="))
        if not equals or key.startswith("#"):
            continue
        if not key:
            yield Refusal(line, "there is no name before the `=`")
        elif len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            yield Assignment(line, key, value[1:-1])
        else:
            yield Assignment(line, key, value)


SYSTEMD_QUOTED = re.compile(r"""[ \t]*(?:'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)")""", re.DOTALL)
SYSTEMD_BARE = re.compile(r"[ \t]*(?P<bare>(?!['\"])(?:\\.|[^\n\r\\])*?)[ \t]*(?=[\n\r]|\Z)", re.DOTALL)


def systemd_value(text: str, position: int) -> Optional[Tuple[str, int]]:
    """The value that starts at position and where it ends; None when a quote or a trailing backslash is left open.

    Quoted pieces may follow each other, blanks between them are dropped; after a bare character quotes are ordinary.
    """
    pieces = []
    match = SYSTEMD_QUOTED.match(text, position)
    while match:
        if match["single"] is not None:
            pieces.append(match["single"])
        else:
            pieces.append(re.sub(r"\\([\"\\`$])|\\\n", r"\1", match["double"]))
        position = match.end()
        match = SYSTEMD_QUOTED.match(text, position)
    match = SYSTEMD_BARE.match(text, position)
    if match is None:
        return None
    pieces.append(re.sub(r"\\(?:[\r\n]|(.))", r"\1", match["bare"]))
    return "".join(pieces), match.end()


def read_systemd(text: str) -> Reading:
    """As EnvironmentFile=: nothing is expanded, a backslash is dropped, ` #` stays, `export X=` is passed over."""
    position = 0
    while True:
        position = after(r"[ \t\r\n]*", text, position)
        if position == len(text):
            return
        start, line, end = position, line_at(text, position), end_of_line(text, position)
        if text[position] in "#;":
            if text[position:end].endswith("\\"):  # systemd 254 changed its mind about this
                yield Refusal(line, "a comment that ends in a backslash hides the next line from systemd before 254")
            position = end
            continue
        equals = text.find("=", position + 1, end)
        if equals < 0:
            position = end
            continue
        found = systemd_value(text, equals + 1)
        if found is None:
            yield Refusal(line, "a quote or a backslash is left open")
            return
        value, position = found
        key = text[start:equals].rstrip(" \t")
        if NAME.match(key) and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value):
            yield Assignment(line, key, value)


SHELL_PIECE = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)|(?P<plain>[^ \t\n'"\\$`;&|<>()]+)""",
    re.DOTALL,
)
SHELL_READ_ONLY = {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}
EXPANDS = "the shell would expand or run part of this; put the value in single quotes"


def shell_piece(match: re.Match[str], first: bool, exported: bool) -> Optional[str]:
    """What a part of a word stands for; None when the shell would expand it. `export` alone expands braces."""
    if match["single"] is not None:
        return match["single"]
    if match["escaped"] is not None:
        return match["escaped"].replace("\n", "")
    if match["double"] is not None:
        expands = re.search(r"[$`]", re.sub(r"\\.", "", match["double"], flags=re.DOTALL))
        return None if expands else re.sub(r"\\(?:([\"\\`$])|\n)", r"\1", match["double"])
    expands = ":~" in match["plain"] or (first and match["plain"][0] == "~") or (exported and "{" in match["plain"])
    return None if expands else match["plain"]


def shell_assignment(text: str, start: int, exported: bool) -> Tuple[Union[Assignment, Refusal], int]:
    """`NAME=word` and where it ends; after a refusal, where the file can be read on."""
    line, next_line = line_at(text, start), after(r"[^\n]*", text, start)
    name = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=").match(text, start)
    if name is None or name[1] in SHELL_READ_ONLY:
        return Refusal(line, "the shell would run this as a command, or refuse it"), next_line
    pieces: List[str] = []
    position = name.end()
    match = SHELL_PIECE.match(text, position)
    while match:
        piece = shell_piece(match, not pieces, exported)
        if piece is None:
            return Refusal(line, EXPANDS), next_line
        pieces.append(piece)
        position = match.end()
        match = SHELL_PIECE.match(text, position)
    if text[position : position + 1] in ("'", '"', "\\"):
        return Refusal(line, "a quote or a backslash is left open"), len(text)
    if text[position : position + 1] not in ("", " ", "\t", "\n"):
        return Refusal(line, EXPANDS), next_line
    return Assignment(line, name[1], "".join(pieces)), position


def read_shell(text: str) -> Reading:
    """As `. file` in bash reads assignments; whatever the shell would expand or run is refused."""
    position, exported, begun = 0, False, False
    while True:
        position = after(r"(?:[ \t]|\\\n)*", text, position)
        if position == len(text):
            return
        if text[position] in "\n#":
            position = after(r"[^\n]*\n?", text, position)
            exported = begun = False
        elif not begun and re.compile(r"export[ \t]").match(text, position):
            position = after(r"export", text, position)
            exported = begun = True
        else:
            found, position = shell_assignment(text, position, exported)
            begun = True
            yield found


PLAIN_READERS: Dict[str, Callable[[str], Reading]] = {
    "decouple": read_decouple,
    "systemd": read_systemd,
    "shell": read_shell,
}
DIALECTS = ("dotenv", *PLAIN_READERS)


def read(text: str, dialect: str, process: Dict[str, str]) -> Reading:
    return read_dotenv(text, process) if dialect == "dotenv" else PLAIN_READERS[dialect](text)


def variables(text: str, dialect: str, process: Dict[str, str], path: str) -> Dict[str, str]:
    """What the file sets; Wrong with the line's number, never its text, when a line cannot be read."""
    values = {}
    for item in read(text, dialect, process):
        if isinstance(item, Refusal):
            raise Wrong("%s, line %d: %s (read as %s)." % (path, item.line, item.why, dialect))
        values[item.key] = item.value
    return values


class Finding(NamedTuple):
    line: int
    key: str  # "-" when the name may be part of a value that spans lines
    differ: Tuple[str, ...]


def findings(text: str, dialect: str, process: Dict[str, str]) -> List[Finding]:
    """Every variable any dialect sees, with the dialects that give it another value than `dialect` does (or none)."""
    seen = {name: [item for item in read(text, name, process) if isinstance(item, Assignment)] for name in DIALECTS}
    values = {name: {item.key: item.value for item in items} for name, items in seen.items()}
    every = [item for name in sorted(DIALECTS, key=lambda name: name != dialect) for item in seen[name]]
    inside = {line for item in every for line in range(item.line + 1, item.line + 1 + item.value.count("\n"))}
    lines: Dict[str, int] = {}
    for item in every:
        lines.setdefault(item.key, item.line)
    lines.update({item.key: item.line for item in seen[dialect]})
    found = []
    for key, line in lines.items():
        differ = tuple(name for name in DIALECTS if values[name].get(key) != values[dialect].get(key))
        found.append(Finding(line, key if NAME.match(key) and line not in inside else "-", differ))
    return sorted(set(found))


def file_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise Wrong("Cannot read the environment file %s: %s." % (path, error.strerror)) from None
    for line, words in enumerate(raw.split(b"\n"), start=1):
        if b"\0" in words:
            raise Wrong("%s, line %d: a zero byte cannot be part of a variable." % (path, line))
        try:
            words.decode("utf-8")
        except UnicodeDecodeError:
            raise Wrong("%s, line %d: this is not UTF-8." % (path, line)) from None
    return raw.decode("utf-8")


# --- the environment of a release ---


def environment_file(services: dict) -> Optional[Tuple[str, str]]:
    """Path and dialect, or None when there is no file or the application reads it by itself (`none`)."""
    given = services["environment"]
    if given["format"] not in (*DIALECTS, "none"):
        raise Wrong("environment.format is none of %s, none." % ", ".join(DIALECTS))
    if not given["file"] or given["format"] == "none":
        return None
    return os.path.join(services["shared"], given["file"]), given["format"]


def environment(services: dict, process: Dict[str, str]) -> Dict[str, str]:
    values = {**process, **services["environment"]["set"]}
    source = environment_file(services)
    if source:
        path, dialect = source
        values.update(variables(file_text(path), dialect, values, path))
    values["RELEASE_ID"] = services["release"]
    values["RELEASE_ROOT"] = ROOT
    values["VIRTUAL_ENV"] = os.path.join(ROOT, ".venv")
    values["PATH"] = VENV_PROGRAMS + ":" + values.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    values["PYTHONDONTWRITEBYTECODE"] = "1"  # a release is read-only to its application
    return values


def first_folder(values: Dict[str, str], name: str) -> str:
    """systemd names the folders of RuntimeDirectory= and StateDirectory= in one variable, joined by colons."""
    return values.get(name, "").split(":")[0]


# --- commands ---


def is_python_script(path: str) -> bool:
    """True for console scripts, whatever they name: a relocatable one starts with #!/bin/sh and is Python as well."""
    with open(path, "rb") as file:
        first, second = file.readline(200), file.readline(200)
    return first.startswith(b"#!") and (b"python" in first or second.startswith(b"'''exec'"))


def find_program(name: str, path: str) -> str:
    if "/" in name:
        return name
    for folder in path.split(":"):
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    raise Wrong("There is no program %s in %s or on PATH; is it among the requirements?" % (name, VENV_PROGRAMS))


def resolved(command: List[str], path: str) -> List[str]:
    """The command with its program's path, run by the release's own Python when it is one of its console scripts."""
    program = find_program(command[0], path)
    if os.path.dirname(program) == VENV_PROGRAMS and is_python_script(program):
        return [os.path.join(VENV_PROGRAMS, "python"), program, *command[1:]]
    return [program, *command[1:]]


def takes(words: List[str], *options: str) -> bool:
    """Whether one of the options is among the words, as `-n x`, `-nx`, `--name x` or `--name=x`."""
    short = tuple(option for option in options if not option.startswith("--"))
    return any(
        word in options or word.split("=")[0] in options or (word[:2] in short and word[:2] != "--") for word in words
    )


CELERY_VALUES = ("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir")


def celery_verb(words: List[str]) -> str:
    """`worker` of `celery -A shop worker -l info`, `` when there is none."""
    skip = False
    for word in words[1:]:
        if skip or word.startswith("-"):
            skip = not skip and word in CELERY_VALUES
            continue
        return word
    return ""


def without_config(words: List[str]) -> Tuple[List[str], str]:
    """The words without gunicorn's own -c/--config, and the file it named."""
    rest, config, words = [], "", list(words)
    while words:
        word = words.pop(0)
        if word in ("-c", "--config") and words:
            config = words.pop(0)
        elif word.startswith("--config="):
            config = word.split("=", 1)[1]
        elif word.startswith("-c"):
            config = word[2:]
        else:
            rest.append(word)
    return rest, config


def gunicorn_command(words: List[str], bind: str, values: Dict[str, str]) -> List[str]:
    rest, config = without_config(words[1:])
    if config:
        values["RELEASE_GUNICORN_CONFIG"] = config
    if bind:
        values["RELEASE_BIND"] = bind
        rest += ["--bind", "unix:" + bind]
    return [words[0], "-c", os.path.join(HERE, "gunicorn_conf.py"), *rest]


def uvicorn_command(words: List[str], bind: str, release: str) -> List[str]:
    """The socket is systemd's first descriptor; no connection is kept for the byte relay that is before a path."""
    where = ["--uds", bind, "--timeout-keep-alive", "0"] if bind else ["--fd", "3"]
    return [*words, "--header", "X-Release:" + release, *where]


def worker_command(words: List[str], name: str, services: dict, path: str) -> List[str]:
    """celery_ready.py runs Celery itself: with .release on PYTHONPATH our `project` would hide an application's own."""
    if not takes(words, "-n", "--hostname"):
        words = [*words, "-n", "%s-%s@%%h" % (name, services["release"])]
    program = find_program(words[0], path)
    return [os.path.join(os.path.dirname(program), "python"), os.path.join(HERE, "celery_ready.py"), *words[1:]]


def beat_command(words: List[str], services: dict, values: Dict[str, str]) -> List[str]:
    """The schedule outlives the release; no pid file, because the service manager knows the process."""
    folder = first_folder(values, "STATE_DIRECTORY") or services["shared"]
    if not takes(words, "-s", "--schedule"):
        words = [*words, "--schedule", os.path.join(folder, "celerybeat-schedule")]
    return words if takes(words, "--pidfile") else [*words, "--pidfile="]


def service_command(name: str, services: dict, values: Dict[str, str]) -> Tuple[List[str], bool]:
    """The service's argv, and whether the started program tells the service manager by itself when it is ready."""
    service = services["services"][name]
    words, bind = list(service["command"]), service.get("bind", "")
    if (
        os.path.basename(words[0]).startswith("python")
        and words[1:2] == ["-m"]
        and words[2:3] in (["gunicorn"], ["celery"], ["uvicorn"])
    ):
        words = words[2:]
    program, path = os.path.basename(words[0]), values["PATH"]
    if program == "gunicorn":
        return resolved(gunicorn_command(words, bind if service["kind"] == "web" else "", values), path), True
    if service["kind"] == "web" and program == "uvicorn":
        words = uvicorn_command(words, bind, services["release"])
    elif service["kind"] == "web" and bind:
        words += ["--bind", "unix:" + bind]
    if program == "celery" and celery_verb(words) == "worker":
        return worker_command(words, name, services, path), True
    if program == "celery" and celery_verb(words) == "beat":
        words = beat_command(words, services, values)
    return resolved(words, path), False


def announce(address: str, bind: str) -> None:
    """What cannot say so itself is ready when it is started: to systemd, or by a file beside the socket."""
    if address:
        notify(address, "READY=1\nSTATUS=started")
    if bind:
        with open(bind + ".ready", "w", encoding="ascii") as file:
            file.write("started")


def notify(address: str, state: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


# --- verbs ---


def become(argv: List[str], values: Dict[str, str]) -> NoReturn:
    """Replaces this process: the pid stays, so LISTEN_PID, the sockets and NOTIFY_SOCKET of systemd stay right."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both, and what it ignores its successor ignores
        signal.signal(number, signal.SIG_DFL)
    coded = {os.fsencode(key): value.encode("utf-8", "surrogateescape") for key, value in values.items()}
    try:
        os.execve(argv[0], argv, coded)
    except OSError as error:
        raise Wrong("Cannot start %s: %s." % (argv[0], error.strerror)) from None


def enter(services: dict, values: Dict[str, str]) -> None:
    folder = os.path.join(ROOT, services["directory"]) if services["directory"] else ROOT
    try:
        os.chdir(folder)
    except OSError as error:
        raise Wrong("Cannot work in %s: %s." % (folder, error.strerror)) from None
    values["PWD"] = folder  # gunicorn believes it


def run(services: dict, process: Dict[str, str], name: str) -> NoReturn:
    if name not in services["services"]:
        raise Wrong("This release has no service %s; it has %s." % (name, ", ".join(services["services"]) or "none"))
    values = environment(services, process)
    runtime = first_folder(values, "RUNTIME_DIRECTORY")
    if runtime:
        values["XDG_RUNTIME_DIR"] = (
            runtime  # gunicorn 25.1 and later keep a control socket there: one for each unit, please
        )
    argv, announces = service_command(name, services, values)
    enter(services, values)
    if not announces:
        announce(values.get("NOTIFY_SOCKET", ""), services["services"][name].get("bind", ""))
    become(argv, values)


def execute(services: dict, process: Dict[str, str], command: List[str]) -> NoReturn:
    values = environment(services, process)
    enter(services, values)
    become(resolved(command, values["PATH"]), values)


def show(services: dict, process: Dict[str, str]) -> None:
    source = environment_file(services)
    if source is None:
        return
    path, dialect = source
    text = file_text(path)
    for line, key, differ in findings(text, dialect, {**process, **services["environment"]["set"]}):
        print("\t".join([key, str(line), ",".join(differ)]).rstrip("\t"))
    variables(text, dialect, process, path)


def services_of_release() -> dict:
    path = os.path.join(HERE, "services.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise Wrong("Cannot read %s: %s." % (path, getattr(error, "strerror", None) or "not JSON")) from None


def obey(arguments: List[str]) -> None:
    process = {os.fsdecode(key): value.decode("utf-8", "surrogateescape") for key, value in os.environb.items()}
    if arguments[:1] == ["run"] and len(arguments) == 2:
        run(services_of_release(), process, arguments[1])
    elif arguments[:2] == ["exec", "--"] and len(arguments) > 2:
        execute(services_of_release(), process, arguments[2:])
    elif arguments == ["env"]:
        show(services_of_release(), process)
    else:
        raise Wrong("Say one of: run NAME, exec -- COMMAND ARGUMENT..., env.")


def main(arguments: List[str]) -> int:
    try:
        obey(arguments)
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 2
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OSError) as error:  # its text may hold a value
        print("services.json or the system is not as expected (%s)." % type(error).__name__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
