"""The server library, run for real over a folder: words, commits, releases, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.model.facts import HostFacts
from tasks.model.release import Release
from tasks.model.shell import Script, script
from tasks.plans import deploy
from tasks.remote.library import programs
from tests.local_hosts import Library, make_stage, open_library, opening_for

ROOT = Path(__file__).parent.parent
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=300)
IDS = [f"2026112{number}-000000-{number:07x}" for number in range(9)]
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "PATH": os.environ["PATH"],
    "HOME": "/nowhere",
}
NAMED = ("user.name=a", "user.email=a@b", "protocol.file.allow=always", "init.defaultBranch=main")


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Library]:
    for library in open_library(
        tmp_path / "host", 'probe() { [ ! -e "$RELEASES/$1/.unwell" ]; }\nqueue_empty() { :; }'
    ):
        library.ok("prepare_folders")
        yield library


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    yield from open_library(tmp_path_factory.mktemp("words"), 'got() { printf "%s\\0" "$@" >"$DEPLOY_TO/got"; }')


def shellcheck(path: str, text: str | None = None, *more: str) -> None:
    tool = str(Path(sys.executable).parent / "shellcheck")
    done = subprocess.run([tool, *more, path], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- words


@pytest.mark.parametrize("path", sorted((ROOT / "templates" / "server").glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_the_library(path: Path) -> None:
    shellcheck(str(path))


def test_shellcheck_finds_nothing_in_what_is_said_to_a_server(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    plan = deploy.plan(stage, {"one": HostFacts("one")}, Release(IDS[0], "0" * 40, "main"), "it's $me `id`")
    said = "".join(step.script.text() + step.undo.text() for phase in plan.phases for step in phase.steps["one"])
    shellcheck("-", f"#!/bin/bash\n{said}", "--exclude=SC2016,SC2028,SC1112,SC1003")  # our quotes are meant literally
    subprocess.run(["bash", "-n"], input=opening_for(stage, tmp_path, "0123"), text=True, check=True)


@given(st.lists(TEXT, min_size=1, max_size=5))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_word_arrives_as_it_was_meant(words: Library, said: list[str]) -> None:
    words.ok(script(("got", *said)).text())
    assert (words.folder / "got").read_bytes() == b"".join(one.encode() + b"\0" for one in said)


AWKWARD = [
    *(
        "",
        " ",
        "-n",
        "--",
        "$(touch x)",
        "`touch x`",
        "'",
        '"',
        "'\"'\"'",
        "\\",
        "a\\\nb",
        "\n",
        "\r\n",
        "\t",
        "*",
        "~",
    ),
    *("$HOME", "!!", "{a,b}", "a;b", "a&b", "a|b", "#x", "ünï", "\u2028", "\x1e", "\x7f", "\x01", "🚀"),
    *("x" * 10_000, "'" * 10_000),
]


@pytest.mark.parametrize("word", AWKWARD, ids=lambda word: ascii(word)[:20])
def test_an_awkward_word_arrives_as_it_was_meant(words: Library, word: str) -> None:
    words.ok(script(("got", word, word)).text())
    assert (words.folder / "got").read_bytes() == 2 * (word.encode() + b"\0")


def test_a_word_no_shell_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        script(("got", "a\0b")).text()


@given(st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,3}", fullmatch=True))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_service_of_any_name_is_found_again_under_supervisord(words: Library, name: str) -> None:
    place = words.folder / ".releases" / "supervisor" / "programs"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / f"{name}-{IDS[0]}.conf").touch()
    asked = f"supervisor_runs() {{ :; }}\nfact ids $(supervisor_ids)\nfact services $(supervisor_services {IDS[0]})\n"
    assert words.ok(asked) == {"ids": IDS[0], "services": name}


# ---- commits


def git(folder: Path, *said: str) -> str:
    command = ["git", *(word for one in NAMED for word in ("-c", one)), "-C", str(folder), *said]
    return subprocess.run(command, env=GIT, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, files: dict[str, str], message: str = "a") -> str:
    if not folder.exists():
        folder.mkdir(parents=True)
        git(folder, "init", "-q")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    commit(tmp_path / "origin", {"manage.py": "1", "sub/manage.py": "in sub", "run.sh": "#!/bin/sh"})
    return tmp_path / "origin"


def say(*call: object) -> str:
    return script(tuple(str(word) for word in call)).text()


def written(at: Library, url: Path | str, sha: str, sub: str = "") -> Path:
    at.ok(say("fetch", url, sha) + say("checkout", IDS[0], url, sha, sub))
    return at.folder / "staging" / IDS[0]


def test_a_branch_a_tag_and_a_commit_mean_what_git_says(at: Library, origin: Path) -> None:
    first = git(origin, "rev-parse", "HEAD")
    git(origin, "tag", "plain")
    git(origin, "tag", "-a", "annotated", "-m", "words")
    second = commit(origin, {"manage.py": "2"})
    for ref, sha in {"main": second, "HEAD": second, "plain": first, "annotated": first, first: first}.items():
        assert at.ok(say("resolve", origin, ref))["revision"] == sha, ref


def test_a_branch_and_a_tag_that_differ_are_not_guessed_between(at: Library, origin: Path) -> None:
    git(origin, "tag", "both")
    commit(origin, {"manage.py": "2"})
    git(origin, "branch", "both")
    assert "is a branch and a tag, and they differ" in at.refused(say("resolve", origin, "both"))
    git(origin, "tag", "-f", "both")
    assert at.ok(say("resolve", origin, "both"))["revision"] == git(origin, "rev-parse", "HEAD")


def test_a_short_commit_counts_where_it_is_known(at: Library, origin: Path) -> None:
    sha = git(origin, "rev-parse", "HEAD")
    assert "no commit" in at.refused(say("resolve", origin, sha[:8]))
    at.ok(say("fetch", origin, sha))
    assert at.ok(say("resolve", origin, sha[:8]))["revision"] == sha


@pytest.mark.parametrize("ref", ["nowhere", "mai", "ma*", "refs/heads/mai"])
def test_what_does_not_exist_is_said_by_name(at: Library, origin: Path, ref: str) -> None:
    assert f"there is no branch or tag {ref}" in at.refused(say("resolve", origin, ref))


def test_a_repository_that_cannot_be_read_is_said_by_name(at: Library, tmp_path: Path) -> None:
    assert f"cannot read {tmp_path}/none" in at.refused(say("resolve", tmp_path / "none", "main"))


def test_a_commit_that_was_never_pushed_is_refused(at: Library, origin: Path) -> None:
    assert "was it pushed" in at.session.run(say("fetch", origin, "1" * 40)).error[1]


@pytest.mark.parametrize(
    "url", ["--upload-pack=touch {0}", "ext::sh -c 'touch {0}'", "ssh://-oProxyCommand=touch%20{0}/x"]
)
def test_an_address_is_never_a_command(at: Library, tmp_path: Path, url: str) -> None:
    marker = tmp_path / "marker"
    for said in (say("resolve", url.format(marker), "main"), say("fetch", url.format(marker), "1" * 40)):
        at.refused(said)
    assert not marker.exists()


@pytest.mark.parametrize(
    "asked", ["https://git.example.com/a.git", "git@git.example.com:a.git", "http://127.0.0.1:1/a"]
)
@pytest.mark.parametrize("way", ["http://127.0.0.1:1/b", "git://127.0.0.1:1/b", "file:///srv/git/b", "/srv/git/b"])
def test_git_goes_no_way_that_the_configured_address_does_not_go(at: Library, asked: str, way: str) -> None:
    result = at.session.run(say("ways_of", asked) + say("git_safely", 5, "ls-remote", way))
    is_asked_for = asked.partition(":")[0] == way.partition(":")[0]
    assert any("not allowed" in line for line in result.log) is not is_asked_for
    if not is_asked_for:
        assert "is not safe" in at.refused(say("ways_of", asked) + say("refuse_way_of", way))


def test_a_submodule_fetched_by_http_is_refused_by_name(at: Library, origin: Path, tmp_path: Path) -> None:
    commit(tmp_path / "library", {"code.py": "of a submodule"})
    git(origin, "submodule", "add", "-q", str(tmp_path / "library"), "vendor/library")
    git(origin, "config", "-f", ".gitmodules", "submodule.vendor/library.url", "http://127.0.0.1:1/library")
    sha = commit(origin, {})
    at.ok(say("fetch", origin, sha))
    assert "http://127.0.0.1:1/library is fetched by http" in at.refused(say("checkout", IDS[0], origin, sha, ""))


def test_a_checkout_is_the_commit_and_nothing_else(at: Library, origin: Path) -> None:
    (origin / "link").symlink_to("manage.py")
    (origin / "run.sh").chmod(0o755)
    sha = commit(origin, {"with space/ü.txt": "x"})
    folder = written(at, origin, sha)
    assert (folder / "link").readlink() == Path("manage.py")
    assert os.access(folder / "run.sh", os.X_OK)
    assert (folder / "with space/ü.txt").read_text() == "x"
    assert not (folder / ".git").exists()
    assert sorted(path.name for path in (at.folder / "staging").iterdir()) == [IDS[0]]


def test_a_sub_directory_becomes_the_release(at: Library, origin: Path) -> None:
    folder = written(at, origin, git(origin, "rev-parse", "HEAD"), "sub")
    assert (folder / "manage.py").read_text() == "in sub"
    assert not (folder / "sub").exists()
    sha = git(origin, "rev-parse", "HEAD")
    assert "there is no folder none" in at.refused(say("checkout", IDS[1], origin, sha, "none"))


def test_a_changed_migration_changes_what_is_compared_and_other_code_does_not(at: Library, origin: Path) -> None:
    keys = []
    for files in ({"app/migrations/0001.py": "1"}, {"app/views.py": "2"}, {"app/migrations/0001.py": "3"}):
        folder = written(at, origin, commit(origin, files))
        keys.append((folder / ".release" / "migrations.key").read_text())
    assert keys[0] == keys[1] != keys[2]


def test_submodules_come_along_also_with_relative_addresses(at: Library, origin: Path, tmp_path: Path) -> None:
    commit(tmp_path / "library", {"code.py": "of a submodule"})
    git(origin, "submodule", "add", "-q", str(tmp_path / "library"), "vendor/library")
    git(origin, "config", "-f", ".gitmodules", "submodule.vendor/library.url", "../library")
    folder = written(at, origin, commit(origin, {}))
    assert (folder / "vendor/library/code.py").read_text() == "of a submodule"


@pytest.mark.parametrize("path", ["../escape", "/tmp/escape", "a/../../escape", "-x"])
def test_a_submodule_that_leaves_the_checkout_is_refused(at: Library, origin: Path, path: str) -> None:
    sha = commit(origin, {".gitmodules": f'[submodule "x"]\n\tpath = {path}\n\turl = ../library\n'})
    at.ok(say("fetch", origin, sha))
    assert "leaves the checkout" in at.refused(say("checkout", IDS[0], origin, sha, ""))


def test_files_in_lfs_are_refused_where_lfs_is_missing(at: Library, origin: Path) -> None:
    if subprocess.run(["git", "lfs", "version"], capture_output=True, check=False).returncode == 0:
        pytest.skip("git-lfs is installed here")
    sha = commit(origin, {".gitattributes": "*.psd filter=lfs diff=lfs merge=lfs -text\n"})
    at.ok(say("fetch", origin, sha))
    assert "Git LFS" in at.refused(say("checkout", IDS[0], origin, sha, ""))


# ---- shared


def test_what_git_brings_in_a_shared_folder_seeds_it_and_overwrites_nothing(at: Library) -> None:
    media = at.folder / "shared" / "media"
    media.mkdir()
    (media / "kept").write_text("of users")
    for name in ("kept", "new", "folder/below"):
        place = at.folder / "staging" / IDS[0] / "media" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("of git")
    place.chmod(0o755)
    at.ok(say("link_folder", IDS[0], "media"))
    assert (at.folder / "staging" / IDS[0] / "media").resolve() == media
    found = {str(path.relative_to(media)): path.read_text() for path in media.rglob("*") if path.is_file()}
    assert found == {"kept": "of users", "new": "of git", "folder/below": "of git"}
    assert [(media / name).stat().st_mode & 0o777 for name in ("new", "folder", "folder/below")] == [
        0o664,
        0o775,
        0o775,
    ]


def test_what_git_brings_is_not_led_out_of_a_shared_folder(at: Library) -> None:
    """The application may plant a link there, and it is deploy that copies."""
    media, outside = at.folder / "shared" / "media", at.folder / "outside"
    media.mkdir()
    outside.mkdir()
    (media / "folder").symlink_to(outside)
    (media / "file").symlink_to(outside / "file")
    for name in ("folder/below", "file", "other"):
        place = at.folder / "staging" / IDS[0] / "media" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("of git")
    at.ok(say("link_folder", IDS[0], "media"))
    assert list(outside.iterdir()) == []
    assert (media / "other").read_text() == "of git"


# ---- releases


def release(at: Library, id: str, state: str = "ready", **marks: bool) -> Path:
    folder = at.folder / "releases" / id
    (folder / ".release").mkdir(parents=True)
    (folder / ".release" / "services.json").write_text("{}")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to("/bin/sh")
    (folder / "release.json").write_text(Release(id, "0" * 40, "main", state=state).to_json())  # type: ignore[arg-type]
    for mark in marks:
        (folder / mark if mark == ".unwell" else folder / ".release" / mark).touch()
    return folder


def state(at: Library, id: str) -> str:
    return str(json.loads((at.folder / "releases" / id / "release.json").read_text())["state"])


def current(at: Library) -> str:
    place = at.folder / "current"
    return place.readlink().name if place.is_symlink() else ""


def lines(at: Library) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for line in (at.folder / ".releases/journal.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]


def test_a_torn_last_line_is_closed_never_continued(at: Library) -> None:
    at.ok(say("journal", "live", IDS[0], "", "ada", ""))
    place = at.folder / ".releases" / "journal.jsonl"
    place.write_text(place.read_text() + '{"seq": 2, "event": "li')
    at.ok(say("journal", "live", IDS[1], IDS[0], 'a "quoted" \\ name\n', "note\twith tab"))
    assert [(one["seq"], one["release"], one["by"]) for one in lines(at)] == [
        (1, IDS[0], "ada"),
        (2, IDS[1], 'a "quoted" \\ name '),
    ]


def test_a_number_is_never_given_twice(at: Library) -> None:
    at.ok("".join(say("journal", "live", IDS[n % 9], "", "ada", "") for n in range(70)))
    assert [one["seq"] for one in lines(at)] == list(range(1, 71))


def test_a_state_is_written_whole_and_changes_nothing_else(at: Library) -> None:
    folder = release(at, IDS[0])
    before = json.loads((folder / "release.json").read_text())
    at.ok(say("set_state", IDS[0], "live") + say("set_state", "unknown", "live"))
    assert json.loads((folder / "release.json").read_text()) == before | {"state": "live"}
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []


def test_a_real_directory_in_place_of_current_is_never_touched(at: Library) -> None:
    release(at, IDS[0])
    (at.folder / "current" / "precious").mkdir(parents=True)
    assert not at.session.run(say("point_current", IDS[0])).ok
    assert "is a directory, not a link" in at.refused("prepare_folders")
    assert [path.name for path in (at.folder / "current").iterdir()] == ["precious"]


def test_a_release_that_fails_its_check_at_the_door_is_put_back_on_the_spot(at: Library) -> None:
    release(at, IDS[0])
    release(at, IDS[1], **{".unwell": True})
    at.ok(say("activate", IDS[0], "", "retired", "{}", "ada", ""))
    refused = at.refused(say("activate", IDS[1], IDS[0], "retired", "{}", "ada", ""))
    assert "is not well through the front door" in refused
    assert (current(at), state(at, IDS[0]), state(at, IDS[1])) == (IDS[0], "live", "bad")
    assert [one["event"] for one in lines(at)] == ["live", "withdrawn"]


def test_who_switched_in_between_is_not_overwritten(at: Library) -> None:
    for id in IDS[:3]:
        release(at, id)
    at.ok(say("point_current", IDS[1]))
    assert "somebody else changed it" in at.refused(say("activate", IDS[2], IDS[0], "retired", "", "ada", ""))
    assert current(at) == IDS[1]


LEFT = {
    "nothing live, one half built": ({}, "", [], ""),
    "switched, not recorded": ({0: "live", 1: "ready"}, 1, [0], 1),
    "recorded, not marked": ({0: "live", 1: "ready"}, 1, [0, 1], 1),
    "marked, the old one not": ({0: "live", 1: "live"}, 1, [0, 1], 1),
    "put back, not marked": ({0: "live", 1: "ready"}, 0, [0], 0),
    "rolled back, not recorded": ({0: "retired", 1: "live"}, 0, [0, 1], 0),
    "built, never switched": ({0: "live", 2: "ready"}, 0, [0], 0),
    "switched, and not well": ({0: "live", "unwell": "ready"}, "unwell", [0], 0),
    "current leads nowhere": ({0: "retired", 1: "live"}, 5, [0, 1], 1),
}


@pytest.mark.parametrize("name", LEFT)
def test_whatever_an_interruption_left_repair_decides_it(at: Library, name: str) -> None:
    states, live, journal, expected = LEFT[name]

    def id_of(one: int | str) -> str:
        return IDS[8] if one == "unwell" else IDS[one] if isinstance(one, int) else ""

    for one, was in states.items():
        release(at, id_of(one), was, **({".unwell": True} if one == "unwell" else {}))
    at.ok("".join(say("journal", "live", IDS[one], "", "ada", "") for one in journal))
    if live != "":
        (at.folder / "current").symlink_to(f"releases/{id_of(live)}")
    (at.folder / "staging" / IDS[7]).mkdir()
    (at.folder / ".current.123.456").symlink_to("releases/x")
    for _ in range(2):  # and once more: nothing changes
        at.ok(say("repair", "{}", "ada"))
        assert current(at) == id_of(expected)
        kept = {path.name: state(at, path.name) for path in (at.folder / "releases").iterdir()}
        assert [id for id, one in kept.items() if one == "live"] == ([current(at)] if current(at) else [])
        assert set(kept.values()) <= {"live", "retired", "bad"}
        assert list((at.folder / "staging").iterdir()) == []
        assert list(at.folder.glob(".current*")) == []
    if current(at):
        assert (at.folder / "running" / f"web@{current(at)}").exists()


def test_what_is_removed_in_the_background_is_not_ended_with_the_run(at: Library) -> None:
    """What ends a run ends its process group; a release half removed was left behind."""
    tools = at.folder / "tools"
    tools.mkdir()
    (tools / "nice").write_text(f'#!/bin/sh\nps -o pgid= -p $$ >{tools}/group\nexec /usr/bin/nice "$@"\n')
    (tools / "nice").chmod(0o755)
    (at.folder / "releases" / ".gc-x" / "deep").mkdir(parents=True)
    done = at.session.run(f"PATH={tools}:$PATH\nsweep\nps -o pgid= -p $BASHPID\n")
    assert done.ok
    deadline = time.monotonic() + 30
    while (at.folder / "releases" / ".gc-x").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (at.folder / "releases" / ".gc-x").exists()
    assert (tools / "group").read_text().strip() != done.log[-1].strip()


def test_a_rollback_cut_at_its_very_end_still_marks_what_it_left(at: Library) -> None:
    """Else the next rollback goes to the release that was just rolled back from."""
    release(at, IDS[0], "live")
    release(at, IDS[1], "live")
    at.ok(
        say("journal", "live", IDS[0], "", "ada", "")
        + say("journal", "live", IDS[1], IDS[0], "ada", "")
        + say("journal", "live", IDS[0], IDS[1], "ada", "rollback, code-only")
        + say("point_current", IDS[0])
    )
    at.ok(say("repair", "{}", "ada"))
    assert (state(at, IDS[0]), state(at, IDS[1])) == ("live", "bad")


BUILD = """
environment_key() { printf 0123456789abcdef; }
build_environment() { # as uv would: a folder in a folder, files
  mkdir -p "$STAGING/$2/.venv/bin" "$STAGING/$2/.venv/lib/site-packages"
  ln -s /bin/sh "$STAGING/$2/.venv/bin/python"
  for file in freeze.txt python lib/site-packages/django.py; do echo "$2" >"$STAGING/$2/.venv/$file"; done
}
"""


def environments(at: Library) -> list[str]:
    return sorted(path.name for path in (at.folder / "environments").iterdir())


def built(at: Library, id: str, before: str = BUILD) -> dict[str, str]:
    (at.folder / "staging" / id / ".release").mkdir(parents=True)
    (at.folder / "staging" / id / "requirements.txt").write_text("django")
    facts = at.ok(before + say("environment", id, "", "", "uv", "", "", "", ""))
    (at.folder / "staging" / id).rename(at.folder / "releases" / id)
    (at.folder / "releases" / id / "release.json").write_text('{"state": "retired"}')
    (at.folder / "releases" / id / ".release" / "services.json").write_text("{}")
    return facts


def test_a_second_release_with_the_same_packages_builds_and_copies_none(at: Library) -> None:
    at.ok(say("prepare_folders"))
    built(at, IDS[0])
    assert built(at, IDS[1], "environment_key() { printf 0123456789abcdef; }\n")["environment"] == "unchanged"
    assert environments(at) == [f"0123456789abcdef-{IDS[0]}"]
    for id in IDS[:2]:
        assert (at.folder / "releases" / id / ".venv/lib/site-packages/django.py").read_text().strip() == IDS[0]
        assert (at.folder / "releases" / id / ".release/freeze.txt").read_text().strip() == IDS[0]


def test_nothing_can_be_installed_into_an_environment_that_a_release_uses(at: Library) -> None:
    at.ok(say("prepare_folders"))
    built(at, IDS[0])
    place = at.folder / "environments" / environments(at)[0]
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    assert len(folders) == 4
    assert [path for path in folders if path.stat().st_mode & 0o222] == []


def test_an_environment_without_its_interpreter_is_not_used_again(at: Library) -> None:
    """The server's Python was upgraded and the old one removed."""
    at.ok(say("prepare_folders"))
    built(at, IDS[0], BUILD.replace("/bin/sh", "/usr/bin/python3.0"))
    built(at, IDS[1])
    assert (at.folder / "releases" / IDS[1] / ".venv").readlink().name == f"0123456789abcdef-{IDS[1]}"


def test_every_module_is_compiled_also_beside_one_that_cannot_be(at: Library) -> None:
    """Project templates end in .py and are none; without bytecode every worker of every start compiles for itself."""
    place = at.folder / "staging" / IDS[0]
    for name in ("a template.py", "shop/models.py", "zoo.py", ".venv/lib/theirs.py", "shop/node_modules/gyp.py"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("{{ name }} = \n" if "template" in name else "x = 1\n")
    (place / ".venv" / "bin").mkdir()
    (place / ".venv" / "bin" / "python").symlink_to(sys.executable)
    at.ok(say("compile_code", IDS[0]))
    compiled = {str(path.relative_to(place)) for path in place.rglob("*.pyc")}
    tag = sys.implementation.cache_tag
    assert compiled == {f"shop/__pycache__/models.{tag}.pyc", f"__pycache__/zoo.{tag}.pyc"}


def test_a_half_published_environment_is_not_used_and_goes(at: Library) -> None:
    at.ok(say("prepare_folders"))
    (at.folder / f"environments/.new-0123456789abcdef-{IDS[0]}/bin").mkdir(parents=True)
    built(at, IDS[1])
    at.ok(say("point_current", IDS[1]) + say("repair", "{}", "ada"))
    assert environments(at) == [f"0123456789abcdef-{IDS[1]}"]


def test_an_environment_goes_with_the_last_release_that_uses_it(at: Library) -> None:
    at.ok(say("prepare_folders"))
    built(at, IDS[0])
    built(at, IDS[1])
    at.ok(say("remove_release", IDS[0]) + "remove_environments\n")
    assert environments(at) == [f"0123456789abcdef-{IDS[0]}"]
    at.ok(say("remove_release", IDS[1]) + "remove_environments\nremove_rubbish\n")
    assert environments(at) == []
    assert list((at.folder / "releases").iterdir()) == []


# ---- a project that is installed itself

PROJECT = '[project]\nname = "pos"\nversion = "1"\nrequires-python = ">=3.9"\n'
SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
LOCK = 'version = 1\nrequires-python = ">=3.9"\n\n[[package]]\nname = "pos"\nversion = "1"\nsource = { %s = "." }\n'
BACKEND = """
import zipfile

def build_wheel(folder, settings=None, metadata=None):
    held = {
        "pos.py": open("src/pos.py").read(),
        "pos-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: pos\\nVersion: 1\\n",
        "pos-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(folder + "/pos-1-py3-none-any.whl", "w") as wheel:
        for name, text in held.items():
            wheel.writestr(name, text)
        wheel.writestr("pos-1.dist-info/RECORD", "".join(name + ",,\\n" for name in [*held, "pos-1.dist-info/RECORD"]))
    return "pos-1-py3-none-any.whl"

build_editable = build_wheel
"""  # fmt: skip
INSTALLED = {
    "uv.lock": ("uv", {"uv.lock": LOCK % "editable"}),
    "requirements": ("uv", {"requirements.txt": "."}),
    "editable, in an included file": ("uv", {"requirements.txt": "-r base.txt", "base.txt": "-e ."}),
    "pip": ("pip", {}),
}


def installed(at: Library, origin: Path, id: str, files: dict[str, str], installer: str = "uv") -> dict[str, str]:
    """Builds the environment of a commit with these files, by a real uv that knows no index, and makes it live."""
    sha = commit(origin, files)
    at.ok(say("prepare_folders") + say("fetch", origin, sha) + say("checkout", id, origin, sha, ""))
    alone = f"export UV_OFFLINE=1 PIP_NO_INDEX=1 UV_CACHE_DIR={at.folder}/cache\n"
    alone += f"PATH={Path(uv.find_uv_bin()).parent}:$PATH\n"
    alone += script(("program", id, "packages.py", programs()["packages.py"])).text()
    facts = at.ok(alone + say("environment", id, "", "", installer, "", "", "", ""))
    (at.folder / "staging" / id).rename(at.folder / "releases" / id)
    at.ok(say("point_current", id))
    return facts


def imported(at: Library, id: str) -> str:
    python = at.folder / "releases" / id / ".venv" / "bin" / "python"
    words = [str(python), "-Ic", "import pos; print(pos.TOLD)"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("how", INSTALLED)
def test_a_project_that_is_installed_is_never_the_code_of_another_commit(at: Library, origin: Path, how: str) -> None:
    installer, files = INSTALLED[how]
    files = {"pyproject.toml": SYSTEM + PROJECT, "backend.py": BACKEND, **files}
    installed(at, origin, IDS[0], {**files, "src/pos.py": 'TOLD = "first"'}, installer)
    installed(at, origin, IDS[1], {"src/pos.py": 'TOLD = "second"'}, installer)
    assert [imported(at, id) for id in IDS[:2]] == ["first", "second"]
    keys = [(at.folder / "releases" / id / ".release" / "lock.key").read_text() for id in IDS[:2]]
    assert keys[0] == keys[1]  # the same packages: static files are copied, and the new processes start early


@pytest.mark.parametrize("lock", [{"uv.lock": LOCK % "virtual"}, {"requirements.txt": "-r base.txt", "base.txt": ""}])
def test_a_commit_of_code_alone_builds_no_environment(at: Library, origin: Path, lock: dict[str, str]) -> None:
    installed(at, origin, IDS[0], {"pyproject.toml": PROJECT, "src/pos.py": "1", **lock})
    assert installed(at, origin, IDS[1], {"src/pos.py": "2"})["environment"] == "unchanged"


@pytest.mark.parametrize("word", ["-r ", "--constraint="])
def test_what_a_requirements_file_includes_decides_too(at: Library, origin: Path, word: str) -> None:
    installed(
        at,
        origin,
        IDS[0],
        {"requirements.txt": f"{word}more/base.txt", "more/base.txt": "-c ../pins.txt", "pins.txt": ""},
    )
    assert installed(at, origin, IDS[1], {"pins.txt": "django==5.2"})["environment"] == "changed"


# ---- what is kept


@pytest.mark.parametrize("seed", range(12))
def test_prune_keeps_what_is_live_pinned_running_and_the_newest_that_were_live(at: Library, seed: int) -> None:
    chance = random.Random(seed)
    states = {id: chance.choice(["retired", "retired", "bad"]) for id in IDS}
    live, pinned, running = (
        chance.choice(IDS),
        set(chance.sample(IDS, 1)),
        set(chance.sample(IDS, chance.randint(0, 1))),
    )
    for id in IDS:
        release(at, id, "live" if id == live else states[id], **({"pinned": True} if id in pinned else {}))
    order = chance.sample(IDS, 9) + chance.choices(IDS, k=3)
    at.ok("".join(say("journal", "live", id, "", "ada", "") for id in order) + say("point_current", live))
    (at.folder / "running").mkdir(exist_ok=True)
    for id in running:
        (at.folder / "running" / f"web@{id}").touch()
    keep = chance.randint(1, 3)
    at.ok(say("prune", keep))

    newest = list(dict.fromkeys(reversed(order)))
    safe = {live} | pinned | running
    wanted = [id for id in newest if states[id] == "retired" and id not in safe][:keep]
    left = {path.name for path in (at.folder / "releases").iterdir() if not path.name.startswith(".gc-")}
    assert left == safe | set(wanted)


def test_what_is_live_is_never_removed(at: Library) -> None:
    release(at, IDS[0], "live")
    at.ok(say("point_current", IDS[0]))
    assert "it is live" in at.refused(say("remove_release", IDS[0]))
    assert "it is live" in at.refused(say("discard", IDS[0]))
    assert (at.folder / "releases" / IDS[0]).is_dir()


def test_nothing_said_is_no_script() -> None:
    assert not Script()
    assert Script().text() == ""
