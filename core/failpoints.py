"""Named places where a test may cut the process down. Nothing happens there unless the environment arms them.

`HEABLCOIN_CLOUD_FAILPOINTS="after_claim:kill:0.01,before_settle:raise"` is read once, at import: a comma list of
`name:action[:probability]`. Actions: `kill` ends the process at once as `kill -9` would, `raise` raises FailpointError,
`stall` sleeps for ten seconds. The places are listed in `NAMES`; a test checks that each is used.
"""

import logging
import os
import random
import signal
import sys
import time
from dataclasses import dataclass

from core.errors import HeablcoinError, InvalidArgument

log = logging.getLogger(__name__)

ENVIRONMENT = "HEABLCOIN_CLOUD_FAILPOINTS"

NAMES = (
    "before_exchange",
    "in_transaction_before_commit",
    "after_exchange_commit",
    "before_handler",
    "after_handler",
    "before_settle",
    "before_renew",
    "before_upkeep",
    "after_publish_commit",
    "during_migration",
)
"""Every place that calls `failpoint`, in the order a task meets them."""

ACTIONS = ("kill", "raise", "stall")


class FailpointError(HeablcoinError):
    """Raised by a failpoint armed with `raise`."""


@dataclass(frozen=True, slots=True)
class Arming:
    """What one armed failpoint does, and in which share of its passes (0 to 1)."""

    action: str
    probability: float


def parse(text: str) -> dict[str, Arming]:
    """The failpoints that `text` arms, by name; InvalidArgument for a name or action that does not exist."""
    armed: dict[str, Arming] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = entry.partition(":")
        action, _, share = rest.partition(":")
        try:
            probability = float(share) if share else 1.0
        except ValueError:
            probability = -1.0
        if name not in NAMES or action not in ACTIONS or not 0 <= probability <= 1:
            raise InvalidArgument(
                f"{ENVIRONMENT} has an entry {entry[:80]!r} that arms nothing.",
                f"write name:action[:probability] with a name of {', '.join(NAMES)} and an action of {', '.join(ACTIONS)}.",
            )
        armed[name] = Arming(action, probability)
    return armed


def failpoint(name: str) -> None:
    """Do what the environment armed for `name`; nothing otherwise."""
    if _ARMED:
        _pass(name)


def survived(name: str) -> None:
    """A failpoint where a failure of our own must not cost what a handler has done: it is logged and passed over."""
    try:
        failpoint(name)
    except FailpointError as error:
        log.warning("%s What was done goes on to be settled.", error.message)


def _pass(name: str) -> None:
    arming = _ARMED.get(name)
    if arming is None or random.random() >= arming.probability:
        return
    if arming.action == "kill":
        if sys.platform == "win32":
            os._exit(137)
        os.kill(os.getpid(), signal.SIGKILL)
    if arming.action == "stall":
        time.sleep(10.0)
        return
    raise FailpointError(f"The failpoint {name} was armed to raise.")


_ARMED = parse(os.environ.get(ENVIRONMENT, ""))
