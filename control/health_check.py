"""Asks the relay of this machine whether it is ready: `python -m control.health_check`.

For containers, every few seconds: so it imports next to nothing. Exit code 0 well, 1 not; what the
relay says, or why there is no answer, is on standard output.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

SECONDS = 4.0  # the relay itself gives up on its database after 3


def main() -> int:
    host = os.environ.get("RELAY_HOST") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # where it listens on all of them
    connection = HTTPConnection(host, int(os.environ.get("RELAY_PORT") or 8080), timeout=SECONDS)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace"))
    except (OSError, HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
