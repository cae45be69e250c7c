"""One server, over real ssh: whom we trust, what we leave there, and what every task says to the people who use it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Server
from tests.servers.shop import ROOT, Shop

from .conftest import put_back

pytestmark = pytest.mark.server

CANARY = "canary"
"""Part of SECRET_KEY in the environment file of every shop."""


# -- whom we trust


@pytest.fixture
def home(shop: Shop, tmp_path: Path) -> Iterator[Path]:
    """A home whose ~/.ssh is ours, and a releases.toml that pins no host key."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    toml = shop.folder / "releases.toml"
    toml.write_text(re.sub(r'host_key = "[^"]*", ', "", toml.read_text()))
    yield tmp_path
    shop.configure()


def _status(shop: Shop, home: Path, known_hosts: str, check: int) -> str:
    (home / ".ssh" / "known_hosts").write_text(known_hosts)
    done = shop.fab("status", check=check, environment={"HOME": str(home), "SSH_AUTH_SOCK": ""})
    return done.stdout + done.stderr


def _key(server: Server) -> str:
    return " ".join(server.known_hosts.split()[1:])


def _other_key(folder: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "other"], check=True)
    return " ".join((folder / "other.pub").read_text().split()[:2])


def test_a_server_in_known_hosts_is_trusted_whatever_else_is_written_there(shop: Shop, home: Path) -> None:
    lines = [
        "# a comment",
        "",
        "not a line of known_hosts at all",
        f"@cert-authority *.example.org {_other_key(home)}",
        "old.example.org ssh-ed25519 not-base64",
        shop.server.known_hosts.strip(),
    ]
    assert "app1" in _status(shop, home, "\n".join(lines) + "\n", 0)


def test_a_hashed_name_in_known_hosts_is_found(shop: Shop, home: Path) -> None:
    known = home / "hashed"
    known.write_text(shop.server.known_hosts)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert shop.server.address not in known.read_text()
    assert "app1" in _status(shop, home, known.read_text(), 0)


def test_a_server_nobody_knows_is_refused_with_its_fingerprint(shop: Shop, home: Path) -> None:
    said = _status(shop, home, "", 1)
    assert "is not known (SHA256:" in said
    assert _fingerprint(shop.server) in said
    assert "set host_key" in said


def test_a_server_whose_key_has_changed_is_refused(shop: Shop, home: Path) -> None:
    said = _status(shop, home, f"{shop.server.address} {_other_key(home)}\n", 1)
    assert "is not the one known" in said
    assert _fingerprint(shop.server) in said


def test_a_pinned_key_that_is_wrong_is_refused_although_known_hosts_agrees(shop: Shop, home: Path) -> None:
    shop.configure()
    toml = shop.folder / "releases.toml"
    toml.write_text(toml.read_text().replace(_key(shop.server), _other_key(home)))
    assert "is not the one known" in _status(shop, home, shop.server.known_hosts, 1)


@pytest.mark.parametrize("pinned", [False, True], ids=["known", "pinned"])
def test_a_revoked_key_is_refused(shop: Shop, home: Path, pinned: bool) -> None:
    if pinned:
        shop.configure()
    said = _status(shop, home, f"{shop.server.known_hosts}@revoked * {_key(shop.server)}\n", 1)
    assert "is revoked (SHA256:" in said


def test_the_key_of_another_port_is_not_the_key_of_this_one(shop: Shop, home: Path) -> None:
    address = shop.server.address
    with _also_listening(shop.server, 7822):
        shop.configure(addresses=[(address, 7822)])
        assert "app1" in _status(shop, home, "", 0)
        toml = shop.folder / "releases.toml"
        toml.write_text(re.sub(r'host_key = "[^"]*", ', "", toml.read_text()))
        assert "is not known" in _status(shop, home, shop.server.known_hosts, 1)
        assert "ssh -p 7822 deploy@" in _status(shop, home, "", 1)
        assert "app1" in _status(shop, home, f"[{address}]:7822 {_key(shop.server)}\n", 0)


def test_a_login_that_is_refused_names_the_command_to_try(shop: Shop, home: Path) -> None:
    shop.configure()
    _other_key(home)
    toml = shop.folder / "releases.toml"
    toml.write_text(re.sub(r'identity = "[^"]*"', f'identity = "{home / "other"}"', toml.read_text()))
    said = _status(shop, home, "", 1)
    assert f"deploy is not let in at {shop.server.address}:22" in said
    assert f"ssh -p 22 -i {home / 'other'} deploy@{shop.server.address}" in said


def test_no_agent_is_forwarded_even_where_ssh_would(shop: Shop, home: Path) -> None:
    """A server that is broken into must not reach others with the keys of whoever deploys to it."""
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    variables = dict(re.findall(r"(\w+)=([^;]+);", agent))
    (home / ".ssh" / "config").write_text("Host *\n    ForwardAgent yes\n")
    shop.configure()
    sockets = "find /tmp -path '/tmp/ssh-*' -name 'agent.*' 2>/dev/null"
    try:
        environment = {"HOME": str(home), **variables}
        seen = shop.server.ssh()
        forwarded = subprocess.run(
            [*seen[:1], "-A", *seen[1:], sockets], env=os.environ | variables, capture_output=True
        )
        assert b"agent." in forwarded.stdout, "this is what it looks like"
        follow = _start(shop, environment, "logs", "--follow", "--service", "beat")
        try:
            _line(follow)
            assert shop.server.run(sockets).stdout == ""
        finally:
            _interrupt(follow)
        done = shop.fab(
            "manage", "shell -c 'import os; print(os.environ.get(\"SSH_AUTH_SOCK\"))'", environment=environment
        )
        assert "None" in done.stdout.splitlines()
    finally:
        os.kill(int(variables["SSH_AGENT_PID"]), signal.SIGTERM)


# -- what a deploy costs and leaves


def test_a_deploy_is_one_connection_and_one_command(shop: Shop) -> None:
    """With its build, migration, health checks, switch and clean-up; the survey before it too."""
    server = shop.server
    server.put("/etc/ssh/sshd_config.d/verbose.conf", "LogLevel VERBOSE\n")
    server.run("systemctl restart ssh")
    since = server.run("journalctl --unit ssh --show-cursor --lines 0 | sed -n 's/^-- cursor: //p'").stdout.strip()
    try:
        shop.fab("deploy", "--ref", "code-only", "--force")
    finally:
        server.run("rm /etc/ssh/sshd_config.d/verbose.conf && systemctl restart ssh")
    said = server.run(f"journalctl --unit ssh --after-cursor {shlex.quote(since)} --output cat").stdout
    assert said.count("Accepted publickey for deploy") == 1
    assert said.count("Starting session: command for deploy") == 1
    assert said.count("Starting session:") == 1


def test_a_plan_changes_nothing_on_the_server(shop: Shop) -> None:
    before = _files(shop.server)
    for words in (("plan", "--ref", "additive-migration"), ("deploy", "--ref", "code-only", "--force", "--dry-run")):
        told = shop.fab(*words).stdout
        assert "Switch and prove it" in told
        assert CANARY not in told
    assert _files(shop.server) == before


def test_deploying_what_is_live_changes_nothing(shop: Shop) -> None:
    live = json.loads(shop.server.run("cat /srv/pos/current/release.json").stdout)
    before = _files(shop.server, "! -name lock")
    done = shop.fab("deploy", "--ref", live["ref"])
    assert "is live already" in done.stderr
    assert _files(shop.server, "! -name lock") == before


@pytest.mark.parametrize("service", ["web", "worker"])
def test_deploying_what_is_live_brings_back_services_that_died(shop: Shop, service: str) -> None:
    id = shop.current()
    ref = json.loads(shop.server.run("cat /srv/pos/current/release.json").stdout)["ref"]
    unit = f"pos-{service}@{id}.service"
    shop.server.run(f"systemctl stop {unit}" + (f" pos-{service}@{id}.socket" if service == "web" else ""))
    shown = shop.fab("status").stdout
    assert f"{service}@{id} is inactive" in shown
    done = shop.fab("deploy", "--ref", ref)
    assert "is live already" in done.stderr
    assert shop.current() == id
    _await(lambda: shop.server.run(f"systemctl is-active {unit}", check=False).stdout == "active\n", f"{service} runs")
    assert json.loads(shop.get())["release"] == id


# -- secrets


WATCH = """
import glob, os, sys, time
found = open("/run/watch.found", "w", buffering=1)
while os.path.exists("/run/watch"):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            text = open(path, "rb").read()
        except OSError:
            continue
        if b"{word}" in text:
            print(text, file=found)
    time.sleep(0.03)
"""


@contextmanager
def _watching_command_lines(server: Server, word: str) -> Iterator[Callable[[], str]]:
    """Looks at every process of the server, over and over, and keeps command lines that contain `word`."""
    server.put("/run/watch.py", WATCH.replace("{word}", word))
    server.run("touch /run/watch; (python3 /run/watch.py </dev/null >/run/watch.log 2>&1 &)")
    try:
        _await(lambda: "found" in server.run("ls /run").stdout, "the watch has begun")
        yield lambda: server.run("cat /run/watch.found /run/watch.log").stdout
    finally:
        server.run("rm /run/watch")


def test_a_secret_is_in_no_output_and_on_no_command_line(shop: Shop) -> None:
    said = []
    environment = {"GITHUB_ACTIONS": "true"}
    with _watching_command_lines(shop.server, f"tests-{CANARY}") as seen:
        said.append(shop.fab("deploy", "--ref", "additive-migration"))
        said.append(shop.fab("deploy", "--ref", "broken-import", check=1))
        said.append(shop.fab("deploy", "--ref", "unhealthy", "--json", check=1, environment=environment))
        said.append(shop.fab("rollback", "--yes"))
        for words in ("status", "releases", "history", "plan --ref slow-boot", "logs --lines 500", "config"):
            said.append(shop.fab(*words.split()))
        said.append(shop.fab("check", "--json", check=None))
        said.append(shop.fab("manage", "check --deploy", check=None))
        assert seen() == ""
        shop.server.run(f"sh -c 'sleep 1; true' tests-{CANARY}")
        assert CANARY in seen(), "the watch sees what there is to see"
    for done in said:
        assert CANARY not in done.stdout + done.stderr, done.args
        assert "pos:pos@" not in done.stdout + done.stderr, done.args


# -- what programs read


def test_a_deploy_in_github_actions_leaves_a_summary_and_outputs(shop: Shop, tmp_path: Path) -> None:
    environment = _actions(tmp_path)
    done = shop.fab("deploy", "--ref", "code-only", "--force", environment=environment)
    live = shop.current()
    assert "::group::" in done.stderr
    assert "::error" not in done.stderr
    summary = (tmp_path / "summary").read_text()
    assert live in summary
    assert "✅" in summary
    assert f"\n{live}\n" in (tmp_path / "output").read_text()
    by = json.loads(shop.server.run("cat /srv/pos/current/release.json").stdout)["by"]
    assert by == "octocat (GitHub Actions run 42)"


def test_a_deploy_that_fails_in_github_actions_marks_the_error(shop: Shop, tmp_path: Path) -> None:
    live = shop.current()
    done = shop.fab("deploy", "--ref", "broken-wsgi", check=1, environment=_actions(tmp_path))
    assert re.search(r"^::error title=deploy production failed::", done.stderr, re.MULTILINE)
    summary = (tmp_path / "summary").read_text()
    assert "❌" in summary
    assert live in summary
    assert "failed" in (tmp_path / "output").read_text()


@pytest.mark.parametrize(("ref", "code"), [("code-only", 0), ("broken-wsgi", 1)])
def test_the_json_stream_is_what_its_page_promises(shop: Shop, ref: str, code: int) -> None:
    promised = _promised()
    done = shop.fab("deploy", "--ref", ref, "--force", "--json", check=code)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "plan_started"
    assert events[-1]["event"] == "plan_finished"
    assert events[-1]["code"] == code
    assert events[-1]["serves"] == {"app1": shop.current()}
    for event in events:
        assert set(event) == promised[event["event"]] | {"event", "at"}, event["event"]
    assert done.stderr == ""


def _promised() -> dict[str, set[str]]:
    """Event -> fields, as docs/reference/json.md lists them."""
    page = (ROOT / "docs" / "reference" / "json.md").read_text()
    sections = re.split(r"^#+ ", page, flags=re.MULTILINE)
    return {one.split("\n")[0]: set(re.findall(r"^\| `(\w+)` \|", one, re.MULTILINE)) for one in sections}


def _actions(folder: Path) -> dict[str, str]:
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "octocat",
        "GITHUB_RUN_ID": "42",
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_OUTPUT": str(folder / "output"),
    }


# -- between deploys


@pytest.mark.parametrize(
    ("service", "expected"),
    [("web", "gunicorn"), ("worker", "reports.tasks.tick"), ("beat", "Scheduler"), ("nginx", "GET /")],
)
def test_the_logs_of_each_service_are_shown(shop: Shop, service: str, expected: str) -> None:
    shop.get()
    assert expected in shop.fab("logs", "--service", service, "--lines", "500").stdout


def test_the_logs_of_a_service_that_does_not_exist_name_those_that_do(shop: Shop) -> None:
    refused = shop.fab("logs", "--service", "wbe", check=1)
    for name in ("wbe", "web", "worker", "beat", "nginx"):
        assert name in refused.stderr


def test_following_the_logs_ends_with_ctrl_c_and_leaves_nothing_behind(shop: Shop) -> None:
    following = _start(shop, {}, "logs", "--follow", "--service", "beat", "--lines", "1")
    _line(following)
    _line(following)  # beat says something every two seconds
    said = _interrupt(following)
    assert following.returncode in (0, 130), said
    assert "Traceback" not in said
    _await(
        lambda: "journalctl" not in shop.server.run("ps -C journalctl -o args= || true").stdout, "no journalctl runs"
    )


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        ("check", 0, "no issues"),
        ("shell -c 'import sys; sys.exit(7)'", 7, ""),
        ("no-such-command", 1, "Unknown command"),
        ("""shell -c 'print("a  b", "$HOME", "`id`", "é;&|", "it\\x27s")'""", 0, "a  b $HOME `id` é;&| it's\n"),
    ],
)
def test_a_management_command_gets_its_words_and_gives_its_exit_code(
    shop: Shop, command: str, code: int, expected: str
) -> None:
    done = shop.fab("manage", command, check=code)
    assert expected in done.stdout + done.stderr


def test_a_command_line_that_does_not_end_is_a_usage_error(shop: Shop) -> None:
    assert "No closing quotation" in shop.fab("manage", "shell -c 'print(1)", check=2).stderr


def test_maintenance_shows_its_page_and_goes_away_again(shop: Shop) -> None:
    shop.fab("maintenance", "on", "--message", "Stock-taking <until> 5 & back")
    assert _answer(shop, "/") == "503"
    assert "Stock-taking &lt;until> 5 &amp; back" in shop.get("/")
    assert "maintenance" in shop.fab("status").stdout
    shop.fab("maintenance", "off")
    assert _answer(shop, "/") == "200"
    assert "maintenance" not in shop.fab("status").stdout
    assert "on or off" in shop.fab("maintenance", "maybe", check=2).stderr


@pytest.mark.nightly
def test_a_pinned_release_outlives_many_deploys_and_a_cleanup(shop: Shop) -> None:
    toml = shop.folder / "releases.toml"
    toml.write_text(toml.read_text().replace("keep_releases = 3", "keep_releases = 1"))
    pinned = shop.current()
    shop.fab("releases", "--pin", pinned)
    try:
        for ref in ("base", "code-only", "base"):
            shop.fab("deploy", "--ref", ref, "--force")
        old = f"systemctl list-units --plain --no-legend 'pos-*@*' | grep -v {shop.current()}"
        _await(
            lambda: shop.server.run(old, check=False).stdout == "", "no old worker still finishes what it has in hand"
        )
        shop.fab("cleanup")
        kept = shop.server.run("ls /srv/pos/releases").stdout.split()
        assert pinned in kept
        assert len(kept) == 3, "the live one, one before it, the pinned one"
        shop.fab("releases", "--unpin", pinned)
        shop.fab("cleanup")
        assert pinned not in shop.server.run("ls /srv/pos/releases").stdout.split()
        assert "there is no release" in shop.fab("releases", "--pin", pinned, check=1).stderr
    finally:
        shop.configure()


def test_the_history_says_who_did_what(shop: Shop) -> None:
    shop.fab("deploy", "--ref", "code-only", "--force")
    shop.fab("rollback", "--yes")
    first, second, *_ = json.loads(shop.fab("history", "--json").stdout)["hosts"]["app1"]
    assert first["note"].startswith("rollback")
    assert (first["event"], second["event"]) == ("live", "live")
    assert first["previous"] == second["release"]
    assert first["release"] == shop.current()
    assert "rollback" in shop.fab("history").stdout


def test_a_deploy_without_the_variables_is_refused_before_anything_is_touched(shop: Shop) -> None:
    shop.server.run("mv /srv/pos/shared/.env.production /run/kept")
    try:
        refused = shop.fab("deploy", "--ref", "slow-boot", check=4).stderr
    finally:
        shop.server.run("mv /run/kept /srv/pos/shared/.env.production")
    assert ".env.production does not exist" in refused
    assert "nothing was touched" in refused


def test_a_frozen_stage_says_why_and_thaws(shop: Shop) -> None:
    shop.fab("freeze", "the auditors are here")
    try:
        refused = shop.fab("deploy", "--ref", "slow-boot", check=3)
        assert "the auditors are here" in refused.stderr
        assert "fab unfreeze" in refused.stderr
        assert "the auditors are here" in shop.fab("status").stdout
    finally:
        shop.fab("unfreeze")
    assert "frozen" not in shop.fab("status").stdout


def test_stopping_and_starting_by_hand(shop: Shop) -> None:
    put_back(shop)
    shop.fab("stop", check=2)  # nobody there to say yes
    shop.fab("stop", "--yes")
    running = "systemctl list-units --plain --no-legend --state=active,activating,deactivating 'pos-*.service'"
    _await(lambda: shop.server.run(running).stdout == "", "nothing runs")
    assert _answer(shop, "/healthz") == "502"
    shop.fab("start")
    assert _answer(shop, "/healthz") == "200"
    _await(lambda: len(shop.server.run(running).stdout.splitlines()) == 3, "web, worker and beat run")


# -- looking


def _fingerprint(server: Server) -> str:
    return server.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[1]


def _answer(shop: Shop, path: str) -> str:
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' -m 10 -H 'Host: pos.test' http://127.0.0.1{path}"
    return shop.server.run(ask, check=False).stdout


def _files(server: Server, *more: str) -> str:
    """Everything below the application's folder and of its services, files with sizes and times."""
    wanted = " ".join(("! -name '*.pyc'", "! -name __pycache__", *more))
    places = "/srv/pos /run/pos /etc/systemd /etc/nginx /etc/sudoers.d"
    shown = r"\( -type d -printf '%p %m %u\n' -o -printf '%p %s %T@ %m %u %l\n' \)"
    return server.run(f"find {places} {wanted} {shown} | sort").stdout


@contextmanager
def _also_listening(server: Server, port: int) -> Iterator[None]:
    server.put("/etc/ssh/sshd_config.d/also.conf", f"Port {port}\n")
    server.run("systemctl restart ssh")
    try:
        yield
    finally:
        server.run("rm /etc/ssh/sshd_config.d/also.conf && systemctl restart ssh")


def _start(shop: Shop, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        shop.command(*words),
        cwd=shop.folder,
        env=shop.environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert line, "it ended too early"
    return line


def _interrupt(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    return said


def _await(fact: Callable[[], bool], said: str) -> None:
    deadline = time.monotonic() + 90
    while not fact():
        assert time.monotonic() < deadline, f"not within 90 s: {said}"
        time.sleep(0.1)
