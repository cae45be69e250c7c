"""The tasks of this checkout; a project that installed fab-releases writes `from fab_releases import namespace`."""

from tasks import namespace

__all__ = ["namespace"]
