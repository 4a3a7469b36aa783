"""The process of one of a pool's workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from search.storage.url import storage_url
from tracking.errors import LayerscopeError
from tracking.mlflow_runs.uploads import start_uploader
from tracking.quick_imports import quick_imports

__all__ = ["main"]


def main() -> None:
    """Work on the study that the first argument names; the exit code is that of the command."""
    # Nothing has begun yet, and an interrupted import is a page of text.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    # Before the imports: a library that is the first to do this chooses what is shown.
    logging.basicConfig(format="%(name)s: %(message)s")
    start_uploader()
    with quick_imports():
        from search.workers.work import work

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_the_pool, daemon=True).start()
    order = json.loads(sys.argv[1])
    try:
        work(order["name"], storage_url(), order["local"], checked=True)
    except LayerscopeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _stop_with_the_pool() -> None:
    """When the process that started this one is gone, nobody would be left to stop it."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
