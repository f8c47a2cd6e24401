"""The HTTP edge of the pool: one file for each wire format, one driver, one place that knows them all."""

from core.cloud.provider import Provider
from core.errors import InvalidArgument
from core.network import Transport, UrlPolicy, open_transport

NAMES = ("openai", "anthropic", "fake")


def provider_for(
    name: str,
    *,
    transport: Transport | None = None,
    policy: UrlPolicy | None = None,
    stall_timeout: float = 20.0,
) -> Provider:
    """The provider called `name`: openai (and everything compatible), anthropic, or fake.

    Without a `transport` it gets its own, under `policy`; pass one transport to all to share connections.
    `stall_timeout` seconds bound the pause between two tokens of a stream. Raises InvalidArgument for an unknown name.
    """
    if name == "openai":
        from core.cloud.providers.http_provider import HttpProvider
        from core.cloud.providers.openai_compatible import OpenAiCompatible

        return HttpProvider(
            OpenAiCompatible(), transport or open_transport(policy, at_once=True), stall_timeout=stall_timeout
        )
    if name == "anthropic":
        from core.cloud.providers.anthropic import Anthropic
        from core.cloud.providers.http_provider import HttpProvider

        return HttpProvider(Anthropic(), transport or open_transport(policy, at_once=True), stall_timeout=stall_timeout)
    if name == "fake":
        from core.cloud.providers.fake import FakeProvider

        return FakeProvider()
    raise InvalidArgument(f"There is no provider {name[:40]!r}.", f"use one of: {', '.join(NAMES)}.")
