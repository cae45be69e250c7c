"""A folder, its owner and its mode."""

from __future__ import annotations

from .. import files
from ..exported import exported
from ..values.site import Site
from .looking import tell


@exported
def look(site: Site, name: str, path: str) -> None:  # noqa: ARG001
    """Tells "directory, OWNER:GROUP MODE"."""
    tell(name, lambda: str(files.entry(path) or ""))


@exported
def make(site: Site, path: str, owner: str, group: str, mode: str) -> None:  # noqa: ARG001
    """With those above it that are missing, which are root's; `mode` is octal. Refused for what is no folder."""
    above = path.rstrip("/").rpartition("/")[0]
    if above:
        files.make_folders(above, "root", "root", 0o755)
    files.make_folder(path, owner, group, int(mode, 8))
