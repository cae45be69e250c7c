"""What the account that deploys may say to systemd as root: these words, and no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.server.installed.systemctl import is_allowed

ID = "20261122-101530-9f3c2ab"
SERVICES = {"web": "web", "mail-out": "worker", "beat": "beat"}
UNITS = {
    "pos.service": ["start", "stop"],
    "pos-offsite.service": ["start"],
    "pos-moment@": ["start", "stop"],
    "pos-hold.service": ["start", "stop"],
}
ALLOWED = (
    f"start --no-block pos-web@{ID}.service",
    f"stop --no-block pos-web@{ID}.service pos-web@{ID}.socket",
    f"start --no-block pos-mail-out@{ID}.service",
    f"stop --no-block pos-mail-out@{ID}.service",
    "restart --no-block pos-beat.service",
    "stop pos.service",
    "start pos.service",
    "start pos-offsite.service",
    "start pos-moment@latest.service",
    "stop pos-moment@20261120-143500-000000.service",
    "start pos-hold.service",
)
REFUSED = (
    "",
    "start",
    "--no-block",
    "start --no-block",
    f"start --no-block pos-web@{ID}.service ssh.service",
    f"start --no-block pos-web@{ID}.service pos-web@{ID}.socket",
    f"restart --no-block pos-web@{ID}.service",
    f"start pos-web@{ID}.service",
    f"start --no-block pos-web@{ID}.service --root=/tmp/evil",
    f"start --no-block --root=/tmp/evil pos-web@{ID}.service",
    f"--root=/tmp start --no-block pos-web@{ID}.service",
    f"start --no-block pos-web@{ID}.socket",
    f"stop --no-block pos-web@{ID}.service pos-web@20261122-101530-0000000.socket",
    f"stop --no-block pos-mail-out@{ID}.service pos-mail-out@{ID}.socket",
    f"start --no-block pos-admin-web@{ID}.service",
    f"start --no-block other-web@{ID}.service",
    "start --no-block pos-web@.service",
    "start --no-block pos-web@../../tmp/evil.service",
    "start --no-block pos-web@*.service",
    f"start --no-block pos-*@{ID}.service",
    f"restart --no-block pos-beat@{ID}.service",
    "restart pos-beat.service",
    "stop --no-block pos-beat.service",
    "restart ssh",
    "status pos.service",
    "edit pos.service",
    "link /tmp/evil.service",
    "set-environment LD_PRELOAD=/tmp/evil.so",
    "-H root@elsewhere start pos.service",
    "start pos.service ssh.service",
    "stop pos-offsite.service",
    "start pos-moment@../x.service",
    "start pos-moment@.service",
    "start pos-moment@",
    "start pos-backup.service",
)


def allowed(*words: str) -> bool:
    return is_allowed(list(words), "pos", SERVICES, UNITS)


@pytest.mark.parametrize("words", ALLOWED)
def test_what_a_deploy_says_is_allowed(words: str) -> None:
    assert allowed(*words.split())


@pytest.mark.parametrize("words", REFUSED)
def test_any_other_word_is_refused(words: str) -> None:
    assert not allowed(*words.split())


@pytest.mark.parametrize("words", ALLOWED)
@given(more=st.text(min_size=1), data=st.data())
def test_a_word_with_anything_more_in_it_is_refused(words: str, more: str, data: st.DataObject) -> None:
    said = words.split()
    place = data.draw(st.integers(0, len(said) - 1))
    for changed in (said[place] + more, more + said[place], said[place] + "\n" + more):
        other = [*said[:place], changed, *said[place + 1 :]]
        if " ".join(other) not in ALLOWED:
            assert not allowed(*other)
    assert not allowed(*said, more)


@pytest.mark.parametrize("digits", ["\u0662\u0660", "\uff12\uff10"])
def test_digits_of_other_scripts_are_no_release(digits: str) -> None:
    assert not allowed("start", "--no-block", f"pos-web@{digits}261122-101530-9f3c2ab.service")
    assert not allowed("start", f"pos-moment@{digits}261120-143500-000000.service")
