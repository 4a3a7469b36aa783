"""The process of one of a crew's workers."""

from __future__ import annotations

import json
import logging
import sys

from search.storage_url import storage_url
from tracking.errors import LayerscopeError

__all__ = ["main"]


def main() -> None:
    """Work on the study that the first argument names; the exit code is that of the command."""
    from search.working import work

    logging.basicConfig(format="%(name)s: %(message)s")
    order = json.loads(sys.argv[1])
    try:
        work(order["name"], storage_url(), order["local"])
    except LayerscopeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
