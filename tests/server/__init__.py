"""The whole product against real servers."""

import pytest

pytest.register_assert_rewrite("tests.server.looking")
