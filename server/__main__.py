"""`python -m server` is the command line of `heablcoin-cloud`; so is `python /path/to/server/__main__.py`, from any directory."""

import os
import sys

if not __package__:  # started by its path, as a client does from a clone that is not installed
    sys.path[0] = os.path.dirname(sys.path[0])  # noqa: PTH120 - pathlib would be looked for in this very folder

from server.cli import main

if __name__ == "__main__":
    sys.exit(main())
