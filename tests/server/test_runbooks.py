"""A tired person types what the page says: it works as written, in that order. Lost servers: test_recover.py."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

import pytest

from tests.runbook import HOW_TO, follow, typed
from tests.servers.shop import Shop

from .conftest import await_page
from .test_restore import sell, sold, sql

pytestmark = pytest.mark.server


def commands(page: str) -> list[str]:
    return [line for block in typed(HOW_TO / page) for line in block]


def which(shop: Shop) -> str:
    """The database that is live, by its number: it keeps that under whatever name."""
    return sql(shop, "select oid from pg_database where datname = 'pos'")


def test_the_page_for_a_broken_application_does_not_help(shop: Shop) -> None:
    good = shop.current()
    shop.fab("deploy", "--ref", "code-only", timeout=300)
    said = [follow(shop, line) for line in commands("roll-back.md")]
    assert len(said) == 4
    assert shop.current() == good
    assert json.loads(shop.get())["release"] == good
    assert good in said[-1]


@pytest.mark.nightly
def test_the_page_for_a_corrupt_database_does_not_help(shop: Shop) -> None:
    """Somebody deletes every sale; the page's date is a moment before that."""
    await_page(shop)
    sell(shop, "before", 3)
    shop.fab("backup")
    time.sleep(1)  # a backup is named by the second
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S+00:00")
    shop.server.run("psql -qd pos -c 'truncate sales_sale cascade'", user="postgres")
    seen = [("", which(shop), sold(shop))]
    for line in commands("restore-the-database.md"):
        follow(shop, line, date)
        seen.append((line, which(shop), sold(shop)))
    restored = [place for place, (line, *_) in enumerate(seen) if re.search(r'--date "[^"]*"$', line)]
    (undone,) = (place for place, (line, *_) in enumerate(seen) if line.endswith("--undo"))
    assert [seen[place][2] for place in restored] == [3] * len(restored)
    before_last = seen[max(place for place in restored if place < undone) - 1]
    assert seen[undone][1:] == before_last[1:], "the database that was live is not back"
    assert seen[-1][1] == seen[undone][1], "looking changes what is live"
    assert json.loads(shop.get())["ok"] is True
