"""`python3 -I -S -X utf8 .../server/__main__.py FUNCTION...`, with the calls on standard input (see `dispatch`).

Or `... --start MODULE WORD...`, of what timers and units start: its `main` is given the words (see `installed`).

The folder this file is in becomes a package of a name of its own: nothing else on the machine can stand in for it.
"""

import sys

FLOOR = (3, 10)


def main() -> int:
    """An old Python must come as far as the sentence: no new syntax before it."""
    if sys.version_info < FLOOR:
        sys.exit("Python {}.{} is needed here, this is {}".format(*FLOOR, sys.version.split()[0]))
    import importlib.util
    import os

    folder = os.path.dirname(os.path.abspath(__file__))
    found = importlib.util.spec_from_file_location(
        "fab_releases_server", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert found
    assert found.loader
    package = importlib.util.module_from_spec(found)
    sys.modules[found.name] = package
    found.loader.exec_module(package)
    if sys.argv[1:2] == ["--start"]:
        return int(importlib.import_module(f"fab_releases_server.installed.{sys.argv[2]}").main(sys.argv[3:]))
    dispatch = importlib.import_module("fab_releases_server.dispatch")
    return int(dispatch.serve(sys.argv[1:], sys.stdin))


if __name__ == "__main__":
    sys.exit(main())
