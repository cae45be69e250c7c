"""What a user fears of launch.py: a service, a migration and a shell that see three different passwords."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .programs_venv import (
    PROGRAMS,
    RELEASE,
    NotifySocket,
    build_release,
    launch,
    programs_venv,  # noqa: F401
    short_folder,  # noqa: F401
)

SECRET = "hunter2-correct-horse"
DIALECTS = ("dotenv", "decouple", "systemd", "shell")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_launch", PROGRAMS / "launch.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


launcher = _load()


def ours(text: str, dialect: str, process: dict[str, str] | None = None) -> dict[str, str] | None:
    """What launch.py reads; None when it refuses the file."""
    try:
        return launcher.variables(text, dialect, process or {}, "file")
    except launcher.Wrong:
        return None


# --- the real readers ---

PYTHON_READERS = """
import io, json, os, sys, tempfile
from decouple import RepositoryEnv
from dotenv import dotenv_values
os.environ.clear()
for line in sys.stdin:
    text = json.loads(line)
    found = dotenv_values(stream=io.StringIO(text, newline=""))
    found = {name: value for name, value in found.items() if value is not None}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        print(json.dumps({"dotenv": found, "decouple": RepositoryEnv(file.name).data}), flush=True)
"""


class PythonReaders:
    def __init__(self, python: Path) -> None:
        command = [str(python), "-c", PYTHON_READERS]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __call__(self, text: str) -> dict[str, dict[str, str]]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(text).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def python_readers(programs_venv: Path) -> Iterator[PythonReaders]:  # noqa: F811
    readers = PythonReaders(programs_venv / "bin" / "python")
    yield readers
    readers.close()


def bash_reads(text: str, folder: Path) -> dict[str, str]:
    (folder / "sourced").write_text(text, newline="")
    script = '. "$1" >/dev/null; for name in $(compgen -v T_); do printf "%s=%s\\0" "$name" "${!name}"; done'
    command = ["bash", "-c", script, "bash", str(folder / "sourced")]
    done = subprocess.run(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)


SYSTEMD_GENERATOR = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")


def systemd_reads(text: str, folder: Path) -> dict[str, str]:
    """systemd's own parser, as its environment.d generator shows it (it also expands `$` and drops empty values)."""
    (folder / "environment.d").mkdir(exist_ok=True)
    (folder / "environment.d" / "t.conf").write_text(text, newline="")
    environment = {"XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    done = subprocess.run(
        [SYSTEMD_GENERATOR], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    found = {}
    for line in done.stdout.decode().splitlines():
        name, value = line.split("=", 1)
        if name.startswith("T_"):
            plain = value[1:-1] if value.startswith('"') else value
            found[name] = re.sub(r"\\(.)", lambda part: {"n": "\n", "t": "\t"}.get(part[1], part[1]), plain)
    return found


# --- one reader ---

NASTY = [
    "T_A=plain\nT_B=\n\n# comment\n  T_C = spaced  \n",
    "T_A=p@ss w0rd#1\nT_B=after\n",
    "T_A=value # comment\nT_B=value#kept\nT_C= # only a comment\nT_D=#kept\n",
    "T_A=\"$HOME and ${T_B}\"\nT_B=1\nT_C=${T_B}-${T_MISSING:-default}\nT_D='${T_B}'\n",
    'T_A=back\\slash\\\\n\nT_B="a\\nb\\t\\\\\\"c\\q"\nT_C=\'a\\nb\\\'\n',
    'T_A="first\nsecond=x\nthird"\nT_B=after\n',
    "T_A='first\nsecond'\nT_B=after\n",
    "export T_A=1\nexport\tT_B='two words' T_C=3\n",
    "T_A='lone\nT_B=2\n",
    'T_A=it"s\nT_B=2\n',
    'T_A="a"b\nT_B="a" b\nT_C="x" # comment\nT_D=a"b c"\n',
    "T_A=1\r\nT_B='2'\r\n\r\n",
    "T_A=~/x\nT_B=a:~\nT_C='~'\n",
    "T_A={1,2}\nT_B=*\nT_C=a=b=c\n",
    "T_A=a;b\n",
    "T_A=`id`\n",
    "T_A=$(id)\n",
    "ls -l\nT_A=1\n",
    "T_A\nT_B=2\n",
    "T_A=1\\\nT_B=2\nT_C=3",
    "T_A=ünï\nT_B='日本 語'\n",
    "; systemd comment\nT_A=1\n",
    "T_A = 'x'\nT_B='x' \nT_C=\t'y'\n",
    "T_A='\\$ok'\nT_B=\"\\$ok\"\nT_C=\\$ok\n",
    "T_A=trailing\\ \nT_B=two\\  \n",
    "\ufeffT_A=1\nT_B=2\n",
]
PIECES = st.sampled_from(
    [
        "T_A",
        "T_B",
        "T_C",
        "=",
        "=",
        "'",
        '"',
        "\\",
        " ",
        "\t",
        "\n",
        "\n",
        "#",
        "$",
        "${T_A}",
        "export ",
        "x",
        "y z",
        ";",
        "~",
        "{",
        ":",
    ]
)
PATIENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def only_ours(found: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if name.startswith("T_")}


def compare_with_python_readers(text: str, readers: PythonReaders) -> None:
    for dialect, real in readers(text).items():
        mine = ours(text, dialect)
        assert mine is None or mine == real, (dialect, text)


@pytest.mark.parametrize("text", NASTY)
def test_values_are_those_of_the_readers_that_applications_use(text: str, python_readers: PythonReaders) -> None:
    compare_with_python_readers(text, python_readers)


@PATIENT
@given(st.lists(PIECES, max_size=25).map("".join))
def test_no_file_is_read_otherwise_than_python_dotenv_and_decouple(python_readers: PythonReaders, text: str) -> None:
    compare_with_python_readers(text, python_readers)


@pytest.mark.parametrize("text", NASTY)
def test_what_is_not_refused_is_what_bash_would_set(text: str, tmp_path: Path) -> None:
    mine = ours(text, "shell")
    assert mine is None or mine == bash_reads(text, tmp_path)


@PATIENT
@given(text=st.lists(PIECES, max_size=25).map("".join))
def test_no_file_is_read_otherwise_than_bash(tmp_path: Path, text: str) -> None:
    mine = ours(text, "shell")
    assert mine is None or only_ours(mine) == bash_reads(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nB=$HOME\n", 2),
        ('A="$HOME"\n', 1),
        ("A=1\n\nB=`id`\n", 3),
        ("A=1\nls\n", 2),
        ("A=pass word\n", 1),
        ("A=1;B=2\n", 1),
        ("A=1 # fine\nB=~\n", 2),
        ("UID=1000\n", 1),
        ("export A={1,2}\n", 1),
        ("A=1\nB='open\nC=3\n", 2),
    ],
)
def test_what_a_shell_would_run_or_expand_is_refused_by_line(text: str, line: int) -> None:
    with pytest.raises(launcher.Wrong, match=f"line {line}:"):
        launcher.variables(text, "shell", {}, "file")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b c\n", "b c"),
        ("A=b # c\n", "b # c"),
        ("A=b\\c\n", "bc"),
        ('A="b\\c\\$d\\"e"\n', 'b\\c$d"e'),
        ("A='b\nc'\n", "b\nc"),
        ("A=$HOME\n", "$HOME"),
        ("A=\"b\" 'c' d \n", "bcd"),
        ("A=b\\\nc\n", "bc"),
        ("A=b\\  \n", "b "),
        ("A=\n", ""),
        ("; comment\n# comment\nA = b\n", "b"),
        ("A=1\nA=2\n", "2"),
    ],
)
def test_systemd_environment_file_rules(text: str, value: str) -> None:
    assert ours(text, "systemd") == {"A": value}


def test_systemd_passes_over_export_and_refuses_what_swallows_the_rest() -> None:
    assert ours("export A=1\nnot an assignment\nB=2\n", "systemd") == {"B": "2"}
    assert ours("A='open\nB=2\n", "systemd") is None
    assert ours("# see C:\\\nB=2\n", "systemd") is None


@pytest.mark.skipif(not SYSTEMD_GENERATOR.exists(), reason="systemd is not installed")
@PATIENT
@given(text=st.lists(PIECES.filter(lambda piece: "$" not in piece), max_size=25).map("".join))
def test_no_file_is_read_otherwise_than_systemd(tmp_path: Path, text: str) -> None:
    mine = ours(text, "systemd")
    assert mine is None or {name: value for name, value in only_ours(mine).items() if value} == systemd_reads(
        text, tmp_path
    )


NAMES = st.from_regex(r"T_[A-Z0-9_]{1,12}", fullmatch=True)
PLAIN = st.from_regex(r"[A-Za-z0-9_./:@%+,-]{0,30}", fullmatch=True)


@given(st.dictionaries(NAMES, PLAIN, max_size=8))
def test_plain_assignments_read_alike_everywhere(values: dict[str, str]) -> None:
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    assert [ours(text, dialect) for dialect in DIALECTS] == [values] * 4
    assert not any(found.differ for found in launcher.findings(text, "dotenv", {}))


# --- ambiguities ---


def shown(tmp_path: Path, text: str, dialect: str) -> subprocess.CompletedProcess[str]:
    root = build_release(tmp_path, tmp_path / "none", {}, file=".env", format=dialect)
    (tmp_path / "shared" / ".env").write_text(text)
    return subprocess.run(launch(root, "env"), capture_output=True, text=True, check=False)


def test_ambiguous_lines_are_named_and_values_never(tmp_path: Path) -> None:
    text = f"A=1\nB={SECRET} x\nC=a\\b\nexport D=1\nE='{SECRET}\n{SECRET}'\nF=$A{SECRET}\n"
    done = shown(tmp_path, text, "dotenv")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "A\t1",
        "B\t2\tshell",
        "C\t3\tsystemd,shell",
        "-\t4\tdecouple",  # decouple's name for it, `export D`
        "D\t4\tdecouple,systemd",
        "E\t5\tdecouple",
        "F\t7\tshell",
    ]
    assert SECRET not in done.stdout + done.stderr


def test_the_end_of_a_key_in_quotes_is_not_shown_as_a_name(tmp_path: Path) -> None:
    done = shown(tmp_path, "KEY='-----BEGIN\nc2VjcmV0==\n-----END'\n", "dotenv")
    assert "c2VjcmV0" not in done.stdout + done.stderr
    assert "-\t2\tdecouple" in done.stdout.splitlines()


# --- the environment ---

DUMP = "import json, os, signal; print(json.dumps([dict(os.environ), os.getcwd(), os.getpid()]))"


def executed(root: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(
        launch(root, "exec", "--", *command), env=variables, capture_output=True, text=True, check=False
    )


def test_file_wins_over_settings_and_settings_over_the_process(tmp_path: Path, programs_venv: Path) -> None:  # noqa: F811
    chosen = {"file": ".env", "set": {"IN_FILE": "set", "IN_SET": "set"}}
    root = build_release(tmp_path, programs_venv, {}, **chosen)
    (tmp_path / "shared" / ".env").write_text("IN_FILE=fïle\nRELEASE_ID=forged\n", encoding="utf-8")
    done = executed(root, "python", "-c", DUMP, IN_FILE="process", IN_SET="process", IN_PROCESS="process", LC_ALL="C")
    found, directory, _ = json.loads(done.stdout)
    assert (found["IN_FILE"], found["IN_SET"], found["IN_PROCESS"]) == ("fïle", "set", "process")
    assert found["RELEASE_ID"] == RELEASE
    assert found["RELEASE_ROOT"] == str(root)
    assert found["VIRTUAL_ENV"] == f"{root}/.venv"
    assert found["PATH"] == f"{root}/.venv/bin:/usr/bin:/bin"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"
    assert directory == found["PWD"] == f"{root}/app"


def test_a_program_started_through_current_keeps_its_own_release(tmp_path: Path, programs_venv: Path) -> None:  # noqa: F811
    root = build_release(tmp_path, programs_venv, {})
    (tmp_path / "current").symlink_to(root)
    command = [sys.executable, "-IS", f"{tmp_path}/current/.release/launch.py", "exec", "--", "python", "-c", DUMP]
    found, directory, _ = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["RELEASE_ROOT"] == str(root)
    assert directory == f"{root}/app"


def test_a_file_the_application_reads_itself_is_left_alone(tmp_path: Path, programs_venv: Path) -> None:  # noqa: F811
    root = build_release(tmp_path, programs_venv, {}, file=".env", format="none")
    (tmp_path / "shared" / ".env").write_text("this is $(not) for us\n")
    assert "this" not in json.loads(executed(root, "python", "-c", DUMP).stdout)[0]


def test_a_broken_pipe_still_ends_a_command(tmp_path: Path, programs_venv: Path) -> None:  # noqa: F811
    root = build_release(tmp_path, programs_venv, {})
    done = executed(root, "bash", "-c", "trap -p PIPE; grep -i sigign /proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert not ignored & 1 << (13 - 1)


@pytest.mark.parametrize(
    ("text", "dialect", "says"),
    [
        (f"A=1\n{SECRET} is not an assignment\n", "dotenv", "line 2:"),
        (f"A=1\nB=$({SECRET})\n", "shell", "line 2:"),
        (f"A='{SECRET}\n", "systemd", "line 1:"),
        (f"={SECRET}\n", "decouple", "line 1:"),
        (f"A={SECRET}\0\n", "dotenv", "line 1:"),
        (f"A={SECRET}\n", "yaml", "environment.format"),
        (None, "dotenv", "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_stops_with_a_sentence_without_values(
    tmp_path: Path, text: str | None, dialect: str, says: str
) -> None:
    root = build_release(tmp_path, tmp_path / "none", {}, file=".env", format=dialect)
    if text is not None:
        (tmp_path / "shared" / ".env").write_text(text)
    done = executed(root, "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nothing"], "has no service nothing; it has web"),
        (["run"], "Say one of"),
        (["exec", "--", "no-such-program"], "no program no-such-program"),
        (["run", "web"], "no program gunicorn"),
    ],
)
def test_a_wrong_word_is_answered_by_one_sentence(tmp_path: Path, words: list[str], says: str) -> None:
    root = build_release(
        tmp_path, tmp_path / "none", {"web": {"kind": "web", "command": ["gunicorn", "x"], "bind": ""}}
    )
    done = subprocess.run(launch(root, *words), env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_services_file_that_makes_no_sense_is_no_traceback(tmp_path: Path) -> None:
    root = build_release(tmp_path, tmp_path / "none", {})
    for content in ("{", "[]", '{"environment": {}}'):
        (root / ".release" / "services.json").write_text(content)
        done = executed(root, "true")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


# --- services ---

SHOW_ARGV = "#!/gone/python\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ), os.getpid()]))\n"


def started(tmp_path: Path, service: dict, **environment: str) -> tuple[list[str], dict[str, str], int, int]:
    """argv, environment and pid of a program that shows them, and the pid that was started."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    for name in ("gunicorn", "celery", "daphne", "uvicorn"):
        (programs / name).write_text(SHOW_ARGV)
        (programs / name).chmod(0o755)
    root = build_release(tmp_path, tmp_path / "venv", {"it": service})
    (root / ".release" / "celery_ready.py").write_text(SHOW_ARGV)
    variables = {"PATH": "/usr/bin:/bin", **environment}
    process = subprocess.Popen(launch(root, "run", "it"), env=variables, stdout=subprocess.PIPE)
    shown = json.loads(process.communicate()[0])
    return *shown, process.pid


def test_systemd_finds_the_pid_it_passed_the_socket_to(tmp_path: Path) -> None:
    service = {"kind": "web", "command": ["gunicorn", "-w", "2", "shop.wsgi"], "bind": ""}
    argv, environment, pid, started_pid = started(tmp_path, service, LISTEN_PID="17", RUNTIME_DIRECTORY="/run/a:/run/b")
    configuration = f"{tmp_path}/releases/{RELEASE}/.release/gunicorn_conf.py"
    assert argv == ["-c", configuration, "-w", "2", "shop.wsgi"]
    assert pid == started_pid
    assert environment["LISTEN_PID"] == "17"
    assert environment["XDG_RUNTIME_DIR"] == "/run/a"


def test_a_configuration_named_by_the_command_is_handed_on(tmp_path: Path) -> None:
    service = {"kind": "web", "command": ["python", "-m", "gunicorn", "--config=own.py", "shop.wsgi"], "bind": "/x/s"}
    argv, environment, *_ = started(tmp_path, service)
    assert argv[2:] == ["shop.wsgi", "--bind", "unix:/x/s"]
    assert (environment["RELEASE_GUNICORN_CONFIG"], environment["RELEASE_BIND"]) == ("own.py", "/x/s")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["celery", "-A", "shop", "worker", "-l", "info"],
            ["-A", "shop", "worker", "-l", "info", "-n", f"it-{RELEASE}@%h"],
        ),
        (["celery", "-A", "worker", "worker", "-nmine"], ["-A", "worker", "worker", "-nmine"]),
    ],
)
def test_two_generations_of_a_worker_have_two_names(tmp_path: Path, command: list[str], expected: list[str]) -> None:
    argv, environment, *_ = started(tmp_path, {"kind": "worker", "command": command})
    assert argv == expected
    assert "PYTHONPATH" not in environment


@pytest.mark.parametrize(("state", "folder"), [({"STATE_DIRECTORY": "/var/lib/beat"}, "/var/lib/beat"), ({}, "SHARED")])
def test_the_schedule_of_beat_outlives_a_release(tmp_path: Path, state: dict[str, str], folder: str) -> None:
    argv, *_ = started(tmp_path, {"kind": "beat", "command": ["celery", "-A", "worker", "beat"]}, **state)
    schedule = folder.replace("SHARED", f"{tmp_path}/shared") + "/celerybeat-schedule"
    assert argv == ["-A", "worker", "beat", "--schedule", schedule, "--pidfile="]


@pytest.mark.parametrize("bind", ["", "SOCKET"])
@pytest.mark.parametrize("command", [["uvicorn"], ["python", "-m", "uvicorn"]])
def test_uvicorn_gets_the_socket_of_its_release(
    tmp_path: Path,
    short_folder: Path,  # noqa: F811
    command: list[str],
    bind: str,
) -> None:
    socket = bind and f"{short_folder}/s"
    argv, *_ = started(tmp_path, {"kind": "web", "command": [*command, "shop.asgi:application"], "bind": socket})
    where = ["--uds", socket, "--timeout-keep-alive", "0"] if bind else ["--fd", "3"]
    assert argv == ["shop.asgi:application", "--header", f"X-Release:{RELEASE}", *where]
    assert [path.name for path in short_folder.iterdir()] == (["s.ready"] if bind else [])


def test_a_program_that_cannot_announce_itself_is_announced(tmp_path: Path, short_folder: Path) -> None:  # noqa: F811
    with NotifySocket(short_folder) as notify:
        started(tmp_path, {"kind": "worker", "command": ["daphne"]}, NOTIFY_SOCKET=notify.path)
        assert notify.message(5) == "READY=1\nSTATUS=started"


def test_gunicorn_is_not_announced_before_it_is_ready(tmp_path: Path, short_folder: Path) -> None:  # noqa: F811
    with NotifySocket(short_folder) as notify:
        started(tmp_path, {"kind": "web", "command": ["gunicorn", "x"]}, NOTIFY_SOCKET=notify.path)
        assert notify.message(0.1) is None
