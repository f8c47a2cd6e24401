"""What a handler raised in its child process."""


class IsolatedError(Exception):
    """`str` is the original's type and message; `retry_after` its own, in seconds, when it had one."""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after
