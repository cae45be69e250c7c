"""What tests share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests import servers

pytest_plugins = ("tests.application",)

Boot = Callable[..., servers.Server]

LONGEST = (
    *("test_load", "test_fleet", "test_topology", "test_interrupted", "test_applications", "test_bad_releases"),
    *("test_recover", "test_runbooks", "test_restore", "test_point_in_time", "test_snapshots", "test_restore_traps"),
    *("test_hosts", "test_peers_bugs", "test_adopt", "test_provision", "test_tls", "test_security", "test_env"),
    *("test_crash_plans", "test_sandbox", "test_debian_13", "test_session", "test_servers", "test_other_services"),
    *(
        "test_backup_moment",
        "test_wheel",
        "test_project",
        "test_project_restore",
        "test_library",
        "test_check",
        "test_watched_backups",
    ),
    *("test_recover_archive", "test_s3_archive", "test_planted_names"),
)
"""Files that take longest, which begin first: a long one that begins last is waited for alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also what takes long, and all of it at full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--nightly"):
        later = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


MAY_BE_SKIPPED = (
    "git-lfs is installed here",
    "no ext4 on a loop device here",
)
"""What no package can mend. Any other skip fails a run that requires real servers, as CI does: a test that is skipped
for want of a program is a promise that nobody looked at."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("FAB_RELEASES_REQUIRE_SERVERS") != "1" or hasattr(session.config, "workerinput") or not reporter:
        return
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())]
    unexpected = [reason for reason in reasons if not reason.startswith(MAY_BE_SKIPPED)]
    if unexpected:
        reporter.write_line("")
        reporter.write_line(
            f"skipped, and must not be where real servers are required: {'; '.join(unexpected)}", red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test waits while another process of this run is `alone`, and is not waited for where it wants to be that."""
    if "alone" in getattr(item, "fixturenames", ()):
        return (yield)
    with _gate(item.config, fcntl.LOCK_SH):
        return (yield)


@pytest.fixture(scope="module")
def alone(pytestconfig: pytest.Config) -> Callable[[], AbstractContextManager[None]]:
    """`with alone():` the machine is ours: every other process of this run has ended its test and begins no other."""
    return lambda: _gate(pytestconfig, fcntl.LOCK_EX)


@contextmanager
def _gate(config: pytest.Config, how: int) -> Iterator[None]:
    """One after the other, for a lock by itself would let in others for as long as one of them is in."""
    if not hasattr(config, "workerinput"):
        yield
        return
    own = Path(config.getoption("basetemp"))
    with own.with_name("turn").open("w") as turn, own.with_name("gate").open("w") as gate:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(gate, how)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session")
def boot() -> Iterator[Boot]:
    """`boot(name, ssh_port=22, requirements=None, bare=False)`: a real server, the same for the same words all session.

    It comes as the test before left it: begin with `.reset()` where that matters. `requirements` is a file whose
    packages the server's uv finds without a network. `bare` is a suite of Debian ("trixie"), or True: the usual one.
    """
    _require_servers()
    servers.clean()
    booted: dict[tuple[str, int, Path | None], servers.Server] = {}

    def boot(
        name: str, *, ssh_port: int = 22, requirements: Path | None = None, bare: bool | str = False
    ) -> servers.Server:
        key = (name, ssh_port, requirements)
        if key not in booted or booted[key].is_closed:
            suite = (bare,) if isinstance(bare, str) else ()
            image = servers.bare(*suite) if bare else servers.warm(requirements) if requirements else servers.base()
            booted[key] = servers.Server.boot(name, ssh_port=ssh_port, image=image, in_memory=True)
        booted[key].start()
        return booted[key]

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is booted is also closed then
    try:
        yield boot
    finally:
        for server in booted.values():
            server.close()
        signal.signal(signal.SIGTERM, before)


def _require_servers() -> None:
    reason = servers.unavailable()
    if reason and os.environ.get("FAB_RELEASES_REQUIRE_SERVERS") == "1":
        pytest.fail(f"real servers are required, and this machine has none: {reason}")
    if reason:
        pytest.skip(f"no real servers on this machine: {reason}")
