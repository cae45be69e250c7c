"""Fabric tasks that release Django with atomic symlinks.

A project's fabfile needs one line: `from fab_releases import namespace`.
"""

from __future__ import annotations

import invoke

from . import backup as _backup
from . import balance as _balance
from . import check as _check
from . import deploy as _deploy
from . import env as _env
from . import inside as _inside
from . import project as _project
from . import provision as _provision
from . import recover as _recover
from . import show as _show
from . import snapshots as _snapshots
from ._fleet import take_over

__version__ = "0.1.0"


def _namespace() -> invoke.Collection:
    tree = invoke.Collection()
    for module in (_deploy, _backup, _snapshots, _show, _check, _inside, _balance, _provision, _recover, _project):
        for name in module.TASKS:
            tree.add_task(getattr(module, name))
    variables = invoke.Collection("env")
    for name in _env.TASKS:
        variables.add_task(getattr(_env, name))
    tree.add_collection(variables)
    return tree


namespace = _namespace()
take_over(namespace)
