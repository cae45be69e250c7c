"""Servers by hand: a person gets one to try things on, and what dead runs left is cleared away.

python -m tests.servers up [--name web] [--port 22] [--requirements FILE]   boot one, say how to log in, wait for Ctrl-C
python -m tests.servers clean                                               remove what is left of dead runs
python -m tests.servers build [--requirements FILE]                         build the image now, not on first use
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

from . import Server, base, clean, unavailable, warm


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("up", "clean", "build"))
    parser.add_argument("--name", default="web", help="host name of the server")
    parser.add_argument("--port", type=int, default=22, help="port its sshd listens on")
    parser.add_argument("--requirements", type=Path, help="fill uv's cache with what this file names")
    asked = parser.parse_args()
    reason = unavailable()
    if reason:
        print(f"no servers on this machine: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"removed {clean()} left by dead runs", file=sys.stderr)
    if asked.what == "clean":
        return 0
    image = warm(asked.requirements) if asked.requirements else base()
    if asked.what == "up":
        _up(Server.boot(asked.name, ssh_port=asked.port, image=image))
    return 0


def _up(server: Server) -> None:
    try:
        print(f"{server.name} is up; Ctrl-C removes it. Log in as root or deploy:\n\n  {shlex.join(server.ssh())}\n")
        print(f"For known_hosts:\n\n  {server.known_hosts}\nFor ~/.ssh/config:\n\n{server.ssh_config()}", flush=True)
        while server.is_up:
            time.sleep(0.5)
        print(f"{server.name} went down", file=sys.stderr)
    except KeyboardInterrupt:
        print("removing it", file=sys.stderr)
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
