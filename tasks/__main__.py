"""`fab-releases init`: `fab` itself needs a fabfile, which a project only has once init has written it."""

from __future__ import annotations

import sys

from fabric.main import program

from . import namespace


def main() -> None:
    program.namespace = namespace
    program.run(["fab", *sys.argv[1:]])


if __name__ == "__main__":
    main()
