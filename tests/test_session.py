"""What people fear of a lost connection, a stuck command and two people at once: one real bash per host, no server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.engine.bounded import HALF_LINE
from tasks.engine.local import LocalChannel, open_local
from tasks.engine.session import Mark, Result, Session, parse
from tasks.model.errors import FailedError, HostLost
from tasks.remote.library import library
from tests.local_hosts import make_stage, open_host, opening_for, process_of, processes_in

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    (tmp_path / ".releases").mkdir()
    with contextlib.closing(open_host(tmp_path)) as session:
        yield session


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


class Background:
    """A run under way in a thread."""

    def __init__(self, session: Session, script: str, timeout: float = PATIENCE) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(session.run, script, timeout=timeout)

    def result(self) -> Result:
        return self._future.result(PATIENCE)


def is_free(folder: Path) -> bool:
    lock = folder / ".releases" / "lock"
    return subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0


def die(session: Session) -> None:
    """The operator's machine is gone: both pipes end, nothing is said."""
    channel = session.channel
    assert isinstance(channel, LocalChannel)
    assert channel.process.stdin
    session._closed.set()
    channel.process.stdin.close()


# ---- what a run tells


def test_steps_facts_and_lines_come_in_the_order_they_were_told(session: Session) -> None:
    heard: list[Mark | str] = []
    result = session.run("begin one\necho first\nfact colour blue\necho second >&2\nwarn careful\nend\n", heard.append)
    assert result.ok
    assert result.facts() == {"colour": "blue"}
    told = [one if isinstance(one, str) else (one.kind, *one.words[:2]) for one in heard]
    assert told[-1][:2] == ("end", "one")
    assert told[:-1] == [("begin", "one"), "first", ("fact", "colour", "blue"), "second", ("warn", "careful")]


def test_the_seconds_of_a_step_are_its_own(session: Session) -> None:
    result = session.run("begin one\nsleep 0.3\nend\n")
    (_, microseconds) = result.marks[-1].words
    assert 250_000 < int(microseconds) < 30_000_000


def test_a_line_without_an_end_is_not_lost_nor_is_what_follows_it(session: Session) -> None:
    result = session.run("printf 'no newline'\nfact after it\nprintf tail")
    assert result.facts() == {"after": "it"}
    assert result.log == ("no newline", "tail")


def test_an_error_is_the_sentence_of_the_script_not_a_number(session: Session) -> None:
    assert session.run("die 'the disk is full' 'free some'\necho never").error == ("the disk is full", "free some")
    assert session.run("false\necho never").error == ("exit status 1", "")
    assert session.run("exit 42").exit == 42
    assert session.run("true").ok, "a failed script must not end the session"


@pytest.mark.parametrize("line", ["undefined_command_here", 'echo "$undefined_variable"', "false | true"])
def test_a_mistake_in_the_middle_ends_the_script(session: Session, line: str) -> None:
    result = session.run(f"{line}\necho went on")
    assert not result.ok
    assert "went on" not in result.log


def test_five_megabytes_are_heard_whole_and_of_them_head_and_tail_are_kept(session: Session) -> None:
    heard: list[Mark | str] = []
    result = session.run("seq -f %099.0f 1 50000\nfact the end", heard.append, patient=True)
    assert result.facts() == {"the": "end"}
    assert [one for one in heard if isinstance(one, str)] == [f"{number:099}" for number in range(1, 50_001)]
    assert result.log[0] == f"{1:099}"
    assert result.log[-1] == f"{50_000:099}"
    (between,) = [line for line in result.log if "left out" in line]
    assert between == f"[... {50_000 - (len(result.log) - 1):,} lines left out ...]"


def test_of_a_line_without_an_end_head_and_tail_are_kept_and_the_mark_behind_it_is_found(session: Session) -> None:
    result = session.run("printf head; head -c 5000000 /dev/zero | tr '\\0' x; printf tail; fact after it")
    assert result.facts() == {"after": "it"}
    (line,) = result.log
    assert len(line) < 100_000
    assert line.startswith("headxxx")
    assert line.endswith("xxxtail")
    assert f"[... {5_000_008 - 2 * HALF_LINE:,} bytes left out ...]" in line


@pytest.mark.parametrize("size", [1, 17, 4096, 65536])
def test_no_mark_is_lost_in_a_line_without_an_end(size: int) -> None:
    for length in (0, 1, HALF_LINE - 3, 8 * HALF_LINE - 9, 20 * HALF_LINE):
        said = b"x" * length + b"\x1eNONCE\tfact\ta\tb\n\x1eNONCE\texit\t0\t1\n"
        found = list(parse("NONCE", iter([said[start : start + size] for start in range(0, len(said), size)])))
        assert found[-2:] == [Mark("fact", ("a", "b")), Mark("exit", ("0", "1"))]


def test_a_server_that_tells_what_nobody_asked_is_lost_before_it_fills_the_memory(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.bounded.MOST_TOLD", 100_000)
    session._say("run", 'for i in $(seq 3000); do fact "n$i" value; done')
    until(lambda: not session.alive)
    assert "more than anybody asked for" in session.run("true").lost


def test_a_server_that_tells_nonsense_ends_no_run_but_its_own(session: Session) -> None:
    """A traceback here would leave the other servers of a fleet half-way."""
    result = session.run("mark returned '{\"$\": 1}'; mark fact")
    assert result.ok
    assert result.facts() == {}
    with pytest.raises(FailedError, match="cannot be understood"):
        _ = result.returned
    result = session.run("mark exit many $RUNS; sleep 20")
    assert "is no number" in result.lost


def test_whoever_reads_no_further_is_not_waited_for(session: Session) -> None:
    """As `fab logs | head`: what is printed has nowhere to go."""

    def hear(_: Mark | str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        session.run("yes", hear, patient=True)
    until(lambda: session._heard._waiting > 3 << 20)
    started = time.monotonic()
    session.close()
    assert time.monotonic() - started < 20
    until(lambda: session._over.is_set())


def test_what_is_told_is_never_cut_in_silence(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engine.session.MOST_TOLD", 1000)
    for script in ('for i in $(seq 100); do fact "n$i" value; done', "fact large $(seq 1000 | tr -d '\\n')"):
        result = session.run(script)
        assert not result.ok
        assert "nothing is decided on half of it" in result.error[0]
    assert session.run("fact still here").facts() == {"still": "here"}


def test_a_server_that_never_stops_talking_is_stopped_in_time(session: Session) -> None:
    started = time.monotonic()
    result = session.run("yes", timeout=2)
    assert not result.ok
    assert result.error[0] == "not done after 2 s"
    assert time.monotonic() - started < PATIENCE
    assert session.run("fact still here").facts() == {"still": "here"}


FLOOD = """
import resource, sys
from pathlib import Path
from tests.test_session import open_host
from tasks.engine.execute import ask
session = open_host(Path(sys.argv[1]))
session.run("fact ready yes")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = session.run(sys.argv[2] + "\\nfact the end", timeout=120)
assert result.ok and result.facts() == {"the": "end"}, result.error
session.close()
print("GREW", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    "flood",
    [
        "seq -f %059.0f 1 1000000",
        "head -c 60000000 /dev/zero | tr '\\0' x",
        "head -c 1000000 /dev/zero | tr '\\0' '\\n'",
    ],
    ids=["a million lines", "one line without an end", "empty lines"],
)
def test_sixty_megabytes_of_output_do_not_fill_the_memory(tmp_path: Path, flood: str) -> None:
    command = [sys.executable, "-c", FLOOD, str(tmp_path), flood]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.rpartition("GREW")[2]) < 40, "MB"


def test_five_megabytes_of_script_arrive_whole(session: Session) -> None:
    text = "'" + "ü" * 2_500_000 + "'"
    assert session.run(f"words={text}\nfact length ${{#words}}").facts() == {"length": "2500000"}


def test_binary_junk_neither_ends_nor_confuses_the_session(session: Session) -> None:
    result = session.run("head -c 300000 /dev/urandom; printf '\\0\\036\\t\\r\\033[2J\\377'; fact still here")
    assert result.facts() == {"still": "here"}
    assert session.run("fact and again").facts() == {"and": "again"}


def test_output_that_looks_like_a_mark_is_only_output(session: Session) -> None:
    forged = "printf '\\036%s\\tfact\\tcurrent\\tevil\\n\\036%s\\texit\\t0\\t1\\n' 0123456789abcdef ''\nfalse"
    result = session.run(forged)
    assert result.exit == 1
    assert result.facts() == {}


def test_a_program_is_not_told_the_secret_that_makes_a_mark(session: Session) -> None:
    seen = session.run("env; cat /proc/$$/environ /proc/$$/cmdline /proc/self/environ | tr '\\0' '\\n'").log
    assert not any(session.nonce in line for line in seen if not line.startswith("session "))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another account")
def test_an_account_that_root_becomes_cannot_speak_for_root_afterwards(tmp_path: Path) -> None:
    """It can read what its processes know, and keep what they have open: then it would say what root is to do next."""
    with contextlib.closing(open_host(tmp_path, more=library("provision"))) as session:
        said = """
        look() {
          fact nonce "$NONCE"; fact open "$(cd /proc/$BASHPID/fd && echo *)"; echo a line; echo wrong >&2; warn careful
          return 3
        }
        as_account daemon look && true
        fact status "$?"
        """
        result = session.run(said)
    facts = result.facts()
    assert facts["status"] == "3"
    assert facts["nonce"] not in ("", session.nonce)
    assert "9" not in facts["open"].split()
    assert {"a line", "wrong"} <= set(result.log)
    assert [mark.words[0] for mark in result.marks if mark.kind == "warn"] == ["careful"]


def test_words_of_a_fact_cannot_break_out_of_it(session: Session) -> None:
    result = session.run(f"fact name $'a\\tb\\n\\036{session.nonce}\\tfact\\tother\\tevil'")
    assert list(result.facts()) == ["name"]


def test_what_a_script_reads_is_nothing_not_the_next_command(session: Session) -> None:
    assert session.run("read -r line || fact read nothing; cat; fact still here").facts() == {
        "read": "nothing",
        "still": "here",
    }


def test_a_script_leaves_no_variable_function_or_folder_to_the_next(session: Session) -> None:
    session.run("left=behind\nfact() { :; }\ncd /tmp\nset +e\numask 0")
    result = session.run('fact value "${left-nothing}"\nfact where "$PWD"\nfact mode "$(umask)"\nfalse\nfact went on')
    assert result.facts() == {"value": "nothing", "where": "/", "mode": "0022"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_marks_are_found_however_the_bytes_are_cut(size: int) -> None:
    said = "ünï\n\x1eN\tfact\ta\tb\ntail\x1eN\tend\tx\t1\nrest".encode()
    pieces = iter([said[start : start + size] for start in range(0, len(said), size)])
    assert list(parse("N", pieces)) == ["ünï", Mark("fact", ("a", "b")), "tail", Mark("end", ("x", "1")), "rest"]


# ---- stopping


def test_a_child_that_is_killed_fails_its_step_and_nothing_else(session: Session) -> None:
    result = session.run("begin one\nbash -c 'kill -9 $$'\nend\n")
    assert result.exit == 137
    assert session.run("fact still here").ok


def test_a_script_that_hangs_is_ended_and_says_so(session: Session, tmp_path: Path) -> None:
    result = session.run(f"sleep 600 & echo $! >{tmp_path}/pid; wait", timeout=1)
    assert not result.ok
    assert result.error[0] == "not done after 1 s"
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())
    assert session.run("fact still here").ok


def test_a_stop_ends_everything_the_script_started(session: Session, tmp_path: Path) -> None:
    run = Background(session, f"bash -c 'sleep 600 & sleep 600' & sleep 600 | sleep 600 & touch {tmp_path}/on; wait")
    until((tmp_path / "on").exists)
    session.stop()
    assert run.result().exit == 143
    until(lambda: processes_in(process_of(session)) == [process_of(session)])


def test_what_does_not_listen_to_a_stop_can_be_killed(session: Session, tmp_path: Path) -> None:
    run = Background(session, f"trap '' TERM\ntouch {tmp_path}/on\nwhile :; do sleep 600; done")
    until((tmp_path / "on").exists)
    session.stop()
    session.kill()
    assert run.result().exit == 137
    assert session.run("fact still here").facts() == {"still": "here"}


def test_a_stop_with_nothing_running_harms_nothing(session: Session) -> None:
    session.stop()
    session.kill()
    assert session.run("fact still here").facts() == {"still": "here"}


def test_a_stop_at_any_moment_is_answered_once(session: Session) -> None:
    """A stop and a kill race with the end of the script: the next script must hear its own exit, not theirs."""
    for _ in range(20):
        run = Background(session, "sleep 0.01")
        time.sleep(0.01)
        session.stop()
        session.kill()
        assert run.result().exit in (0, 137, 143)
        assert session.run("exit 7").exit == 7


CRITICAL = """
switch() {{ touch {0}/began; sleep 1; /bin/sleep 0.2; touch {0}/ended; }}
critical switch
touch {0}/after
"""


def test_a_critical_section_finishes_before_the_stop_is_obeyed(session: Session, tmp_path: Path) -> None:
    run = Background(session, CRITICAL.format(tmp_path))
    until((tmp_path / "began").exists)
    session.stop()
    session.kill()
    assert run.result().exit == 143
    assert (tmp_path / "ended").exists(), "the exit was told before the critical section had ended"
    assert not (tmp_path / "after").exists()


def test_a_failing_critical_section_fails_its_script_and_its_output_is_shown(session: Session) -> None:
    result = session.run("switch() { echo why; false; echo never; }\ncritical switch\necho never")
    assert (result.exit, result.log) == (1, ("why",))


# ---- the client dies


def test_when_the_client_dies_nothing_of_it_goes_on(session: Session, tmp_path: Path) -> None:
    assert session.lock("me") == ""
    Background(session, f"touch {tmp_path}/on; sleep 600; touch {tmp_path}/after")
    until((tmp_path / "on").exists)
    assert not is_free(tmp_path)
    die(session)
    until(lambda: not processes_in(process_of(session)))
    until(lambda: is_free(tmp_path))
    assert not (tmp_path / "after").exists()


def test_when_the_client_dies_a_critical_section_finishes_and_keeps_the_lock_until_then(
    session: Session, tmp_path: Path
) -> None:
    assert session.lock("me") == ""
    watched: list[tuple[bool, bool]] = []
    Background(session, CRITICAL.format(tmp_path))
    until((tmp_path / "began").exists)
    die(session)
    while True:  # in this order: what was free was free before it was looked whether it had ended
        free, ended = is_free(tmp_path), (tmp_path / "ended").exists()
        watched.append((free, ended))
        if free:
            break
        assert len(watched) < 3000
        time.sleep(0.02)
    assert watched[-1] == (True, True), "the lock was free before the critical section had ended"
    assert len(watched) > 5
    assert not (tmp_path / "after").exists()
    until(lambda: not processes_in(process_of(session)))


def test_who_waits_is_told_that_the_run_before_is_finishing(session: Session, tmp_path: Path) -> None:
    assert session.lock("ada: deploy") == ""
    Background(session, CRITICAL.format(tmp_path))
    until((tmp_path / "began").exists)
    die(session)
    lock = tmp_path / ".releases" / "lock"
    until(lambda: "finishing: its operator is gone" in lock.read_text() or is_free(tmp_path))
    assert "ada: deploy" in lock.read_text()


def test_when_heartbeats_stop_the_server_lets_go(tmp_path: Path) -> None:
    """A cut link: the pipe stays open, nothing comes."""
    session = open_host(tmp_path, lease=1)
    try:
        assert session.lock("me") == ""
        session._closed.set()  # our side falls silent, and closes nothing
        until(lambda: not processes_in(process_of(session)))
        assert is_free(tmp_path)
    finally:
        session.close()


def test_heartbeats_keep_a_silent_session_alive(tmp_path: Path) -> None:
    with contextlib.closing(open_host(tmp_path, lease=4)) as session:
        assert session.run("sleep 6; fact still here", timeout=PATIENCE).facts() == {"still": "here"}


def test_half_a_script_is_never_run(session: Session, tmp_path: Path) -> None:
    """The link is cut while a script is being sent: its first lines alone may do anything."""
    script = f"touch {tmp_path}/done\n".encode()
    session.channel.write(b"run %d\n" % (len(script) + 20) + script)
    die(session)
    until(lambda: not processes_in(process_of(session)))
    assert not (tmp_path / "done").exists()


def test_a_server_that_dies_in_the_middle_is_lost_not_failed(session: Session) -> None:
    run = Background(session, "sleep 600")
    os.killpg(process_of(session), signal.SIGKILL)
    for pid in processes_in(process_of(session)):
        os.kill(pid, signal.SIGKILL)
    result = run.result()
    assert result.lost
    assert not session.alive
    assert session.run("true").lost


def test_a_session_that_was_lost_is_waited_for(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that outlived it may still hold the pipe, so that writing works: nobody will ever answer."""
    run = Background(session, "sleep 600")
    os.killpg(process_of(session), signal.SIGKILL)
    for pid in processes_in(process_of(session)):
        os.kill(pid, signal.SIGKILL)
    assert run.result().lost
    monkeypatch.setattr(session.channel, "write", lambda _: None)
    while not session._heard.empty():
        session._heard.get()
    assert Background(session, "true", timeout=600).result().lost


@pytest.mark.parametrize("said", ["echo 'Last login: yesterday'; exit 0", "exit 1", "echo broken >&2; cat"])
def test_something_else_than_a_server_is_named_not_waited_for(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.hello
    monkeypatch.setattr(Session, "hello", lambda self: real(self, timeout=1))
    with pytest.raises(HostLost, match="does not answer as a server should"):
        open_local("one", said, "nonce")


def test_a_profile_that_talks_does_not_matter(tmp_path: Path) -> None:
    with contextlib.closing(open_host(tmp_path, more="echo 'Welcome!'; printf 'no end'")) as session:
        assert session.run("fact still here").facts() == {"still": "here"}


# ---- two at once


def test_the_second_one_is_told_who_holds_the_lock(session: Session, tmp_path: Path) -> None:
    with contextlib.closing(open_host(tmp_path)) as other:
        assert session.lock("ada@laptop: deploy main, since 10:15") == ""
        assert other.lock("bob") == "ada@laptop: deploy main, since 10:15 "
        session.unlock()
        until(lambda: other.lock("bob") == "")
        assert session.lock("ada").strip() == "bob"


def test_a_lock_that_is_free_again_says_nothing_of_its_last_holder(session: Session, tmp_path: Path) -> None:
    assert session.lock("a holder with a very long line of words about who it is") == ""
    session.unlock()
    assert session.run("true").ok
    with contextlib.closing(open_host(tmp_path)) as other:
        assert other.lock("bob") == ""
        assert session.lock("ada").strip() == "bob"


def test_two_at_the_same_instant_never_both_get_it(tmp_path: Path) -> None:
    first, second = open_host(tmp_path), open_host(tmp_path)
    barrier = threading.Barrier(2)
    taken: dict[int, list[bool]] = {}

    def contend(number: int, session: Session) -> None:
        for race in range(50):
            barrier.wait(PATIENCE)
            won = session.lock(f"number {number}") == ""
            taken.setdefault(race, []).append(won)
            barrier.wait(PATIENCE)
            session.unlock()
            assert session.run("true").ok  # the unlock has been done

    with contextlib.closing(first), contextlib.closing(second), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(contend, 1, first), pool.submit(contend, 2, second)]:
            done.result(PATIENCE)
    assert [sum(won) for won in taken.values()] == [1] * 50


def test_a_lock_file_that_was_removed_stops_the_run_that_held_it(session: Session, tmp_path: Path) -> None:
    assert session.lock("ada") == ""
    (tmp_path / ".releases" / "lock").unlink()
    with contextlib.closing(open_host(tmp_path)) as other:
        assert other.lock("bob") == ""
        refused = session.run(f"touch {tmp_path}/done")
        assert refused.exit == 76
        assert "lock file was removed" in refused.error[0]
        assert not (tmp_path / "done").exists()


def test_a_folder_that_cannot_be_written_is_a_reason_not_a_busy_lock() -> None:
    nowhere = Path("/proc/fab-releases")
    text = opening_for(make_stage(nowhere), nowhere, "0123456789abcdef")
    said = r"cannot create /proc/fab-releases/\.releases: .* may not write in /proc"
    with (
        contextlib.closing(open_local("one", text, "0123456789abcdef")) as session,
        pytest.raises(HostLost, match=said),
    ):
        session.lock("ada")


def test_a_session_that_is_closed_leaves_no_process(tmp_path: Path) -> None:
    session = open_host(tmp_path)
    pid = process_of(session)
    session.close()
    assert processes_in(pid) == []


def test_what_a_session_still_reads_is_not_taken_for_the_next_one_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it may be closed between two reads: the number of its pipe must not go to another pipe yet."""
    session = open_host(tmp_path)
    channel = session.channel
    assert isinstance(channel, LocalChannel)
    assert channel.process.stdout
    pipe, late, go_on = channel.process.stdout.fileno(), threading.Event(), threading.Event()
    real, main = os.read, threading.current_thread()

    def read(descriptor: int, size: int) -> bytes:
        if descriptor == pipe and threading.current_thread() is not main:
            late.set()
            go_on.wait(PATIENCE)
        return real(descriptor, size)

    with monkeypatch.context() as slow:
        slow.setattr(os, "read", read)
        session.run("true")
        assert late.wait(PATIENCE)
        before = os.fstat(pipe).st_ino
        session.close()
        assert os.fstat(pipe).st_ino == before
        go_on.set()
        until(lambda: channel.process.stdout and channel.process.stdout.closed)
