"""Fabric tasks that release Django with atomic symlinks.

A project's fabfile needs one line: `from fab_releases import namespace`.
"""

from __future__ import annotations

import invoke

from . import deploy as _deploy
from ._fleet import take_over

__version__ = "0.1.0"


def _namespace() -> invoke.Collection:
    tree = invoke.Collection()
    for one in (_deploy.deploy, _deploy.plan, _deploy.rollback, _deploy.repair):
        tree.add_task(one)
    return tree


namespace = _namespace()
take_over(namespace)
