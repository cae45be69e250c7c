"""The architecture stays what docs/architecture.md says: who imports whom, how long a piece is, what a start costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from tasks import namespace
from tasks.report import pages

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tasks"
MODULES = sorted(CORE.rglob("*.py"))
PROGRAMS = sorted((ROOT / "templates").rglob("*.py"))
BELOW = {
    "surface": {"plans", "remote", "engine", "report", "config", "model", "server"},
    "plans": {"remote", "model", "server"},
    "remote": {"model", "server"},
    "engine": {"model", "server"},
    "report": {"model", "server"},
    "config": {"model", "server"},
    "model": {"server"},
    "server": set(),
}
BOTH_SIDES = ("server.values", "server.exported")
"""What the operator's side may use of tasks/server; everything else there it may only name, in a `call`."""
ALLOWED = {
    "invoke": lambda path: path.parent == CORE,
    "fabric": lambda path: path.parent == CORE or path == CORE / "engine" / "ssh.py",
    "paramiko": lambda path: path == CORE / "engine" / "ssh.py",
    "rich": lambda path: path.parent == CORE / "report",
    "jinja2": lambda path: path == CORE / "remote" / "files.py",
    "pydantic": lambda path: path.parent == CORE / "config",
    "pydantic_core": lambda path: path.parent == CORE / "config",
}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def layer(path: Path) -> str:
    return "surface" if path.parent == CORE else path.relative_to(CORE).parts[0]


def imports(path: Path) -> Iterator[tuple[str, int, int]]:
    """(dotted name, level of relativity, line)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((name.name, 0, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not node.module:
                yield from ((name.name, node.level, node.lineno) for name in node.names)
            else:
                yield node.module or "", node.level, node.lineno


def target_layer(path: Path, module: str, level: int) -> str:
    """Where a relative import leads; "" to a plain module of the package itself."""
    folder = path.parent
    for _ in range(level - 1):
        folder = folder.parent
    place = folder.joinpath(*module.split("."))
    relative = place.relative_to(CORE)
    return relative.parts[0] if relative.parts and (CORE / relative.parts[0]).is_dir() else "surface"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_point_down_and_third_parties_stay_behind_their_fence(path: Path) -> None:
    mine = layer(path)
    for module, level, line in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if level:
            target = target_layer(path, module, level)
            assert target == mine or target in BELOW[mine], f"{where}: {mine} must not know {target}"
            continue
        top = module.split(".")[0]
        assert top not in ("tasks", "fab_releases", "tests"), f"{where}: only relative imports: the wheel renames tasks"
        if top not in sys.stdlib_module_names:
            assert top in ALLOWED, f"{where}: {top} is not a dependency"
            assert ALLOWED[top](path), f"{where}: {top} does not belong here"


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) == "server"], ids=str)
def test_what_runs_on_a_server_needs_only_python_and_itself(path: Path) -> None:
    for module, level, line in imports(path):
        assert level or module.split(".")[0] in sys.stdlib_module_names, f"{path.name}:{line}: {module}"
    ast.parse(path.read_text(), feature_version=(3, 10))


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) != "server"], ids=str)
def test_what_runs_on_a_server_is_named_here_and_never_run(path: Path) -> None:
    tree = ast.parse(path.read_text())
    there = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and not _is_shared(node):
            names = [one for one in node.names if _leads_to_server(path, node, one.name)]
            there |= {one.asname or one.name for one in names}
    named = {id(node.args[0]) for node in ast.walk(tree) if _is_call(node)}
    named |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) in named}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in there:
            assert id(node) in named, f"{path.name}:{node.lineno}: {node.id} runs on servers: call({node.id}, ...)"


def _is_shared(node: ast.ImportFrom) -> bool:
    return any(f"{node.module}.".startswith(f"{one}.") for one in BOTH_SIDES)


def _leads_to_server(path: Path, node: ast.ImportFrom, name: str) -> bool:
    return target_layer(path, node.module or name, node.level) == "server"


def _is_call(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "call" and bool(node.args)


def test_the_entry_points_that_units_of_old_releases_call_stay() -> None:
    """Units, timers and the sudoers file of releases gone by start these with these words: their names are frozen."""
    release = ROOT / "templates" / "release"
    assert {"launch.py", "probe.py", "project.py"} <= {path.name for path in release.glob("*.py")}
    said = "\n".join(path.read_text() for path in (ROOT / "templates").rglob("*.j2"))
    assert set(re.findall(r"\.release/([a-z_]+\.py)", said)) == {"launch.py", "project.py"}


@pytest.mark.parametrize("path", PROGRAMS, ids=names(PROGRAMS))
def test_programs_of_a_release_need_only_what_a_release_has(path: Path) -> None:
    """They start before anything is installed, on the server's own Python."""
    own = {one.stem for one in PROGRAMS}
    if path.parent.name == "release":  # as old as an application's Python
        ast.parse(path.read_text(), feature_version=(3, 9))
    has = {"django", "celery", "gunicorn", "kombu", "psycopg", "psycopg2", "dotenv", "decouple", "MySQLdb"}
    for module, _, line in imports(path):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names | own | has, f"{path.name}:{line}: {top}"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_every_module_says_why_it_exists_and_stays_readable(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} does not say why it exists"
    assert len(path.read_text().splitlines()) <= 400, f"{path.name} is too long to read"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_table(node):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{path.name}: {node.name} has {length} lines"


def _is_table(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A plan reads from top to bottom as the list of its steps; cut in two it would have to be read twice."""
    return node.name == "plan" and node.returns is not None and ast.unparse(node.returns) == "Plan"


def test_every_task_says_in_one_sentence_what_it_does() -> None:
    assert len(namespace.task_names) >= 15
    for name in namespace.task_names:
        text = (namespace[name].__doc__ or "").strip()
        assert text.endswith("."), f"fab {name} has no sentence"
        assert "\n\n" not in text, f"fab {name}: one sentence, not {text!r}"
        assert text[0].isupper()


def test_every_flag_is_explained() -> None:
    flags = [(name, one) for name in namespace.task_names for one in pages.arguments(namespace[name])]
    assert len(flags) > 40
    assert [f"fab {name} --{one.name}" for name, one in flags if not one.help] == []


PROBE = """
import json, sys
sys.argv = ["fab", *sys.argv[1:]]
from fabric.main import program
try:
    program.run()
except SystemExit:
    pass
print("MODULES" + json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def _started(folder: Path, *words: str) -> tuple[set[str], float]:
    """Top-level modules imported by `fab WORDS`, and the best of three times in seconds."""
    took = []
    for _ in range(3):
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *words], cwd=folder, capture_output=True, text=True, check=True
        )
        took.append(time.monotonic() - begin)
    return set(json.loads(done.stdout.rpartition("MODULES")[2])), min(took)


def test_fab_list_starts_with_hardly_more_than_fabric_itself(tmp_path: Path) -> None:
    (tmp_path / "fabfile.py").write_text("from invoke import task\n\n\n@task\ndef one(context):\n    pass\n")
    bare, bare_seconds = _started(tmp_path, "--list")
    ours, our_seconds = _started(ROOT, "--list")
    print(f"fab --list takes {our_seconds / bare_seconds:.2f} times a bare fab --list ({our_seconds:.2f} s)")
    assert not (ours - bare) & {
        "pydantic",
        "pydantic_core",
        "rich",
        "jinja2",
        "markupsafe",
        "asyncio",
        "supervisor",
        "uv",
    }
    assert {name for name in ours - bare if name not in sys.stdlib_module_names} <= {"fabfile", "tasks"}
