"""What every test gets; see tests/support/fixtures.py."""

import os
import signal

from hypothesis import settings

from tests.support.examples import examples
from tests.support.fixtures import anyio_backend, llm_server, own_environment, own_logging

__all__ = ["anyio_backend", "llm_server", "own_environment", "own_logging"]

# No test fails because the machine is busy: speed is never asserted as seconds.
settings.register_profile("unhurried", deadline=None, max_examples=examples(100))
settings.load_profile("unhurried")

# The processes under test keep their compiled code, as a user's do: to compile ours again for each of them takes longer
# than most of them run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell without job control has what it starts in the background ignore Ctrl-C, and what that starts inherits it: the
# processes under test would be deaf to the signal they are sent.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
