"""A server with the example application live on it, and the way back to that moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.revisions import make
from tests.conftest import Boot
from tests.servers import Server, Snapshot
from tests.servers.shop import REQUIREMENTS, Shop, make_shop

_untouched: set[Server] = set()
"""Put back, and no test has begun since: not a second time, for that costs a boot."""


def pytest_runtest_call() -> None:
    _untouched.clear()


def nightly(*values: object) -> list[Any]:
    """Parameters that only a night has time for."""
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of examples/revisions.py: a tag for each way a revision can go wrong."""
    path = tmp_path_factory.mktemp("origin")
    make(path)
    return path


@pytest.fixture(scope="session")
def shop_once(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Snapshot]:
    shop = make_shop(tmp_path_factory.mktemp("first"), [boot("shop", requirements=REQUIREMENTS)], origin)
    shop.fab("deploy", "--ref", "base", timeout=300)
    return shop, shop.server.snapshot()


@pytest.fixture(scope="module")
def shop(shop_once: tuple[Shop, Snapshot], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One server with `base` live; each module gets it as it was then, and a folder of its own.

    `shop.server.reset()` goes back there in about a second: say `await_page(shop)` after it.
    """
    first, snapshot = shop_once
    shop = Shop(tmp_path_factory.mktemp("operator"), first.servers)
    shop.server.reset(snapshot)
    _untouched.add(shop.server)
    yield put_back(shop)
    if shop.server.is_up:
        shop.server.power_loss()  # its workers and its beat would take from the tests of other files


@pytest.fixture
def fresh(shop: Shop) -> Shop:
    """The same server, put back before this test."""
    return put_back(shop)


def put_back(shop: Shop) -> Shop:
    """Server and configuration as they were when `base` had just gone live."""
    if shop.server not in _untouched:
        shop.server.reset()
    shop.configure()
    await_page(shop)
    _untouched.add(shop.server)
    return shop


def await_page(shop: Shop, path: str = "/healthz", seconds: float = 90) -> None:
    """Until the front door answers 200: after a boot PostgreSQL takes longer than ssh."""
    deadline = time.monotonic() + seconds
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' -m 5 -H 'Host: pos.test' http://127.0.0.1{path}"
    while (answer := shop.server.run(ask, check=False).stdout) != "200":
        assert time.monotonic() < deadline, f"{path} answers {answer} {seconds} s after the boot"
        time.sleep(0.2)
