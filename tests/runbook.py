"""Pages that people follow at three in the morning, followed by tests: what they type, as it is written there."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

from tests.servers.shop import Shop

ROOT = Path(__file__).resolve().parents[1]
HOW_TO = ROOT / "docs" / "how-to"


def typed(page: Path, fence: str = "[a-z]*") -> list[list[str]]:
    """The commands of each block (of those that are marked `fence`) that has some: its lines after "$ ", in order."""
    blocks = re.findall(rf"^ *```{fence}\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    found = [re.findall(r"^ *\$ (.*?)(?: +# .*)?$", block, re.MULTILINE) for block in blocks]
    return [commands for commands in found if commands]


def follow(shop: Shop, line: str, date: str = "", check: int = 0) -> str:
    """Types `fab ...` at a terminal, says yes where it asks; returns what was said. `date` stands for every --date."""
    if date:
        line = re.sub(r'--date ("[^"]*"|\S+)', f'--date "{date}"', line)
    program, *words = shlex.split(line)
    assert program == "fab", line
    person, terminal = pty.openpty()
    try:
        os.write(person, b"yes\n" * 3)
        done = subprocess.run(
            shop.command(*words),
            cwd=shop.folder,
            env=shop.environment(),
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        os.close(person)
        os.close(terminal)
    assert done.returncode == check, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
