"""The files around the code, that a user copies or types: CI workflows, Makefile, scripts."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
BIN = ROOT / ".venv/bin"
TEMPLATES = ROOT / "templates/init"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
EXAMPLE = {
    "APPLICATION": "pos",
    "BRANCH": "main",
    "PYTHON": "3.12",
    "REQUIREMENTS": "examples/pos/requirements.txt",
    "MANAGE_DIRECTORY": "examples/pos",
    "SETTINGS": "pos.settings",
}
PLAIN = {**EXAMPLE, "BRANCH": "release/2.0", "REQUIREMENTS": "uv.lock", "MANAGE_DIRECTORY": "."}


def rendered(name: str, values: dict[str, str]) -> str:
    """The template with its markers replaced, as `fab init` writes it."""
    return re.sub(r"@([A-Z_]+)@", lambda marker: values[marker[1]], (TEMPLATES / name).read_text())


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def clean(*command: str | Path, **options: object) -> None:
    result = run(*command, **options)
    assert result.returncode == 0, result.stdout


@pytest.fixture(params=[EXAMPLE, PLAIN], ids=["folder in a repository", "whole repository"])
def values(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.param


# --- the workflows ---


def test_the_github_workflow_has_no_known_weakness(values: dict[str, str], tmp_path: Path) -> None:
    workflow = tmp_path / ".github/workflows/deploy.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(rendered("deploy.github.yml", values))
    clean(BIN / "zizmor", "--offline", "--no-progress", workflow)
    clean(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)


def test_the_gitlab_pipeline_is_one(values: dict[str, str], tmp_path: Path) -> None:
    pipeline = tmp_path / ".gitlab-ci.yml"
    pipeline.write_text(rendered("deploy.gitlab.yml", values))
    clean(BIN / "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", pipeline)


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_our_own_workflows_have_no_known_weakness(workflow: Path) -> None:
    clean(BIN / "zizmor", "--offline", "--no-progress", workflow)
    clean(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)


def test_the_workflow_in_this_repository_is_what_init_writes() -> None:
    ours = rendered("deploy.github.yml", EXAMPLE).replace(f"FAB_RELEASES: fab-releases=={VERSION}", "FAB_RELEASES: .")
    assert without_header(ours) == without_header((ROOT / ".github/workflows/deploy.yml").read_text())


def without_header(workflow: str) -> str:
    return workflow[workflow.index("\nname:") :]


@pytest.mark.parametrize("name", ["deploy.github.yml", "deploy.gitlab.yml"])
def test_a_new_project_installs_the_version_that_wrote_its_workflow(name: str) -> None:
    assert f"FAB_RELEASES: fab-releases=={VERSION}\n" in (TEMPLATES / name).read_text()


def test_a_release_that_has_begun_is_never_cancelled_or_overtaken(values: dict[str, str]) -> None:
    github = YAML(typ="safe").load(rendered("deploy.github.yml", values))["jobs"]["deploy"]
    assert github["concurrency"] == {"group": "deploy-production", "cancel-in-progress": False}
    gitlab = YAML(typ="safe").load(rendered("deploy.gitlab.yml", values))["deploy"]
    assert (gitlab["resource_group"], gitlab["interruptible"]) == ("production", False)


def test_only_the_tested_commit_of_the_release_branch_is_deployed(values: dict[str, str]) -> None:
    deploy = YAML(typ="safe").load(rendered("deploy.github.yml", values))["jobs"]["deploy"]
    assert deploy["needs"] == "test"
    assert deploy["if"] == f"github.ref == 'refs/heads/{values['BRANCH']}' && vars.DEPLOY_KNOWN_HOSTS != ''"
    assert deploy["steps"][-1]["env"]["SHA"] == "${{ needs.test.outputs.sha }}"
    pipeline = YAML(typ="safe").load(rendered("deploy.gitlab.yml", values))
    assert pipeline["workflow"]["rules"] == [{"if": f'$CI_COMMIT_BRANCH == "{values["BRANCH"]}"'}]
    assert pipeline["deploy"]["needs"] == ["test"]


RECORDING_FAB = """#!/bin/sh
printf '%s\\n' "$@" > "$HOME/arguments"
env > "$HOME/environment"
stat -c %a "$2" > "$HOME/mode"
cat "$2" > "$HOME/key"
"""


def test_the_deploy_key_stays_out_of_arguments_environment_and_log(tmp_path: Path) -> None:
    deploy = YAML(typ="safe").load(rendered("deploy.github.yml", EXAMPLE))["jobs"]["deploy"]
    fab = tmp_path / "fab/bin/fab"
    fab.parent.mkdir(parents=True)
    fab.write_text(RECORDING_FAB)
    fab.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RUNNER_TEMP": str(tmp_path),
        "DEPLOY_KEY": "first line\nsecret line",
        "DEPLOY_KNOWN_HOSTS": "server ssh-ed25519 AAAA",
        "SHA": "9f3c2ab; touch injected",
    }
    result = run("bash", "-e", "-c", deploy["steps"][-1]["run"], env=environment, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout == ""
    assert (tmp_path / "key").read_text() == "first line\nsecret line\n"
    assert (tmp_path / "mode").read_text() == "600\n"
    assert "secret line" not in (tmp_path / "environment").read_text()
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *(
            "--identity",
            str(tmp_path / "deploy_key"),
            "deploy",
            "--stage",
            "production",
            "--ref",
            "9f3c2ab; touch injected",
        )
    ]
    assert (tmp_path / ".ssh/known_hosts").read_text() == "server ssh-ed25519 AAAA\n"
    assert not (tmp_path / "injected").exists()


@pytest.mark.parametrize("name", ["deploy.github.yml", "deploy.gitlab.yml"])
def test_the_shell_of_the_workflows_is_sound(name: str, tmp_path: Path) -> None:
    jobs = YAML(typ="safe").load(rendered(name, EXAMPLE))
    steps = [step["run"] for job in jobs.get("jobs", {}).values() for step in job["steps"] if "run" in step]
    steps += ["\n".join(job["script"]) for job in jobs.values() if isinstance(job, dict) and "script" in job]
    assert steps
    for number, script in enumerate(steps):
        file = tmp_path / f"{number}.sh"
        file.write_text(f"set -e\n{script}")  # as both runners do
        clean(BIN / "shellcheck", "--shell", "bash", file)


# --- scripts and Makefile ---


def tracked(*patterns: str) -> list[Path]:
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns, cwd=ROOT).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).exists()]


@pytest.mark.parametrize("script", tracked("*.sh", ".ci/run"), ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    clean(BIN / "shellcheck", script)


def test_the_ci_script_can_be_executed() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make` in a folder that holds a copy of the Makefile, on a machine that has no uv."""
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, folder)
    return run("make", *arguments, cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment})


def test_make_alone_names_every_target(tmp_path: Path) -> None:
    targets = set(re.findall(r"^\.PHONY: (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"help", "demo", "test", "lint", "bench", "docs", "clean"} <= targets
    listed = make(tmp_path)
    assert {line.split()[1] for line in listed.stdout.splitlines()} == targets


def test_an_old_python_is_named_and_nothing_is_installed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])' \"$@\"\n"
    )
    python.chmod(0o755)
    result = make(tmp_path, "demo", f"PYTHON={python}")
    assert result.returncode != 0
    assert f"{python} is older than 3.11: install a newer one" in result.stdout
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / ".cache").exists()


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    result = make(tmp_path, "demo", "PYTHON=python-that-is-not-there")
    assert "there is no python-that-is-not-there: install Python 3.11 or newer." in result.stdout


def test_a_python_without_its_venv_module_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    result = make(tmp_path, "demo", f"PYTHON={sys.executable}", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert "apt-get install python3-venv" in result.stdout
    assert not (tmp_path / ".cache").exists()
