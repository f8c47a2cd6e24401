"""What a call asks its driver to do, and is told of what came of it. Pure; see core.cloud.pool.call.

Not frozen: a frozen dataclass takes three times as long to make, and these are made for every call.
"""

from dataclasses import dataclass
from typing import Any

from core.cloud.pool.admission import Refused
from core.cloud.pool.member import Member
from core.cloud.pool.pool import Sending
from core.cloud.pool.wait_queue import Waiter


@dataclass(slots=True)
class Admit:
    member: Member
    last_resort: bool = False
    tokens: int = 0
    """To reserve, where the endpoint limits them."""


@dataclass(slots=True)
class Send:
    sending: Sending
    timeout: float
    hedge_after: float | None = None
    """Seconds after which the driver reports back although the call goes on."""


@dataclass(slots=True)
class KeepWaiting:
    pass


@dataclass(slots=True)
class Pause:
    seconds: float
    turn: Waiter | None = None
    """Ends the pause when it is called."""


@dataclass(slots=True)
class SendEnded:
    """A call that was under way is over."""

    sending: Sending
    result: Any = None
    error: Exception | None = None


Command = Admit | Send | KeepWaiting | Pause
Event = int | Refused | SendEnded | None
