"""What only the sandbox needs: variables, since no operator wrote them."""

from __future__ import annotations

import secrets

from ..model.config import Stage
from ..model.shell import Script, Secret, script


def seed(stage: Stage) -> Script:
    """A first environment file where there is none; other shared files start empty, as a SQLite database may."""
    empty = Script(tuple(("seed_file", path, "") for path in stage.shared_files if path != stage.environment.file))
    if not stage.environment.file:
        return empty
    text = (
        "# Made for the sandbox by fab-releases; yours from now on.\n"
        f"SECRET_KEY={secrets.token_urlsafe(50)}\n"
        "DEBUG=false\n"
        "ALLOWED_HOSTS=localhost,127.0.0.1\n"
    )
    return empty + script(("seed_file", stage.environment.file, Secret(text)))
