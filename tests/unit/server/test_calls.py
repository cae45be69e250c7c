"""What is said to a server arrives as it was meant, or nothing of it runs."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine.session import Session
from tasks.model.call import call
from tasks.model.shell import Script, script
from tasks.server import files
from tasks.server.agent import lock
from tasks.server.agent.ping import ping
from tasks.server.exported import name_of
from tasks.server.values import wire
from tasks.server.values.secret import Secret
from tasks.server.values.site import Site
from tests.local_hosts import open_host

SERVER = Path(__file__).parents[3] / "tasks" / "server"
SITE = Site("/srv/pos", "pos", "production", {"web": "web"}, "systemd")
TEXT = st.text(st.characters(blacklist_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary() | TEXT.map(Secret),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(TEXT.filter(lambda name: name != "$"), inner),
    max_leaves=8,
)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = open_host(tmp_path)
    yield session
    session.close()


def spoken(*names: str, lines: list[str]) -> subprocess.CompletedProcess[str]:
    """The child as a session starts it, with descriptor 3 where its marks go."""
    said = "\n".join(["0123", *lines, ""])
    words = [sys.executable, "-I", "-S", "-X", "utf8", str(SERVER / "__main__.py"), *names]
    return subprocess.run(
        ["bash", "-c", 'exec "$@" 3>&1', "-", *words], input=said, capture_output=True, text=True, timeout=60
    )


@given(VALUES)
def test_a_value_comes_out_of_the_wire_as_it_went_in(value: Any) -> None:
    text = wire.dumps(value)
    assert wire.loads(text) == value
    assert text.isascii()
    assert "\n" not in text


@pytest.mark.parametrize(
    "text",
    [
        '{"$": "Popen", "args": "id"}',
        '{"$": "Secret", "value": "x", "more": 1}',
        '{"$": "Secret"}',
        '{"$": 1}',
        '{"$": null}',
        '{"$": ["Secret"]}',
        '{"$": "bytes", "base64": "!"}',
        '{"$": "bytes", "base64": 3}',
        '{"$": "bytes"}',
        "{",
        "",
    ],
)
def test_what_is_not_known_is_refused_by_the_wire(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        wire.loads(text)


def test_what_cannot_travel_is_refused_at_home() -> None:
    for value in ({"$": 1}, {1: 2}, object(), {1}, Path("/")):
        with pytest.raises(TypeError):
            wire.dumps(value)


def test_a_secret_is_in_no_repr_and_in_no_plan() -> None:
    said = call(ping, value=Secret("hunter2"))
    assert "hunter2" not in repr(said) + script(said).shown() + repr(script(said))
    assert "hunter2" in script(said).text()


def test_a_call_names_an_exported_function_and_its_arguments() -> None:
    said = call(ping, value=(1, b"\0", Secret("s")))
    assert (said.function, dict(said.arguments)) == ("agent.ping.ping", {"value": (1, b"\0", Secret("s"))})
    with pytest.raises(ValueError, match="not for calls from outside"):
        call(files.remove)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        call(ping, colour="blue")  # type: ignore[call-arg]
    assert name_of(lock.lend) == "agent.lock.lend"


def test_calls_that_follow_one_another_are_one_process(session: Session) -> None:
    said = script(("fact", "before", "1"), call(ping, value="a'b\n$(id)"), call(ping, value=None), ("fact", "after", 1))
    assert said.text().count("server ") == 1
    result = session.run(said.text())
    assert result.ok, result.error
    assert result.returned == ("a'b\n$(id)", None)
    assert [mark.kind for mark in result.marks] == ["fact", "returned", "returned", "fact"]


def test_a_refusal_ends_the_script_with_its_sentence(session: Session) -> None:
    result = session.run(script(call(ping, value=1).by("nobody-at-all"), ("fact", "after", "1")).text())
    assert (result.ok, result.error) == (False, ("there is no account nobody-at-all", "fab provision makes it"))
    assert result.facts() == {}


def test_two_scripts_joined_keep_their_order(session: Session) -> None:
    said = Script((("fact", "a", "1"),)) + script(call(ping, value=1))
    assert session.run(said.text()).returned == (1,)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("os.system", '{"arguments": {"command": "touch ran"}}'),
        ("files.remove", '{"arguments": {}}'),
        ("files", "{}"),
        ("..files.remove", "{}"),
        ("agent.ping.ping", '{"arguments": {"colour": 1}}'),
        ("agent.ping.ping", '{"arguments": {"value": {"$": "Popen"}}}'),
        ("agent.ping.ping", '{"arguments": 3}'),
        ("agent.ping.ping", "[]"),
        ("agent.ping.ping", "{"),
        ("agent.ping.ping", ""),
    ],
)
def test_what_is_not_known_is_refused_before_anything_runs(name: str, line: str) -> None:
    first = '{"arguments": {"value": "ran"}}'
    done = spoken("agent.ping.ping", name, lines=[wire.dumps(SITE), first, line])
    assert done.returncode == 1
    assert "returned" not in done.stdout
    assert re.match("\x1e0123\terror\t.+\tare both sides of one version\\?\n", done.stdout)
    assert done.stderr == ""


def test_a_call_without_its_site_is_refused() -> None:
    done = spoken("agent.ping.ping", lines=['{"deploy_to": "/"}', '{"arguments": {"value": 1}}'])
    assert done.returncode == 1
    assert "without its site" in done.stdout


def test_all_of_a_site_travels() -> None:
    assert wire.loads(wire.dumps(SITE)) == SITE
    assert json.loads(wire.dumps(SITE)).keys() == {"$", *(one.name for one in dataclasses.fields(Site))}
