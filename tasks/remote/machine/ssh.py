"""sshd lets nobody in by a password and forwards nothing; a mistake here does not shut us out."""

from __future__ import annotations

from dataclasses import replace

from ...model.config import Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, script
from .. import files
from .things import file, part

PATH = "/etc/ssh/sshd_config.d/10-fab-releases.conf"
SETTINGS = (
    *("PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password"),
    *("AllowTcpForwarding no", "AllowStreamLocalForwarding no", "AllowAgentForwarding no", "X11Forwarding no"),
    *("PermitTunnel no", "MaxAuthTries 4"),
)
"""Each by its own name: DisableForwarding of OpenSSH 7.4 to 9.9 leaves X11 and agents be (CVE-2025-32728)."""


def parts(stage: Stage) -> tuple[Part, ...]:
    if not stage.provision.ssh:
        return ()
    written = file(PATH, files.render("sshd.conf", stage, settings=SETTINGS))
    in_use = Thing("settings of sshd", ("look_sshd", *SETTINGS), "\n".join(sorted(SETTINGS)).lower(), Script())
    return (
        part(
            "ssh",
            "Harden SSH",
            replace(written, make=script(("sshd_until_proven", PATH)) + written.make),
            in_use,
            check=("/usr/sbin/sshd", "-t"),
            use=("reload_sshd",),
        ),
    )
