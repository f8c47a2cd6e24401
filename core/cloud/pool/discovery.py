"""Endpoints that the environment offers: one for each known `*_API_KEY`. Pure."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from core.cloud.endpoint import ApiEndpoint
from core.cloud.keys.key_text import check_key, unfilled
from core.errors import InvalidArgument

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor whose key may be in the environment, and the defaults for its API."""

    name: str
    prefix: str
    """Of the variables `<prefix>_API_KEY`, `<prefix>_MODEL` and `<prefix>_BASE_URL`."""
    base_url: str
    model: str
    provider: str = "openai"


VENDORS = (
    Vendor("openai", "OPENAI", "https://api.openai.com/v1", "gpt-4o-mini"),
    Vendor("deepseek", "DEEPSEEK", "https://api.deepseek.com/v1", "deepseek-chat"),
    Vendor("anthropic", "ANTHROPIC", "https://api.anthropic.com", "claude-haiku-4-5", "anthropic"),
    Vendor("gemini", "GEMINI", "https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-flash"),
    Vendor("groq", "GROQ", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
    Vendor("moonshot", "MOONSHOT", "https://api.moonshot.cn/v1", "moonshot-v1-8k"),
    Vendor("zhipu", "ZHIPU", "https://open.bigmodel.cn/api/paas/v4", "glm-4-flash"),
)
"""In the order in which they are preferred. The models are cheap ones; `<prefix>_MODEL` names another."""


def discover(environ: Mapping[str, str]) -> list[ApiEndpoint]:
    """An endpoint for each vendor whose key is set, in order of preference; the key stays in the environment.

    A variable that holds nonsense (a `_BASE_URL` that is no URL) leaves its vendor out, with a warning in the log.
    """
    found: list[ApiEndpoint] = []
    for vendor in VENDORS:
        variable = f"{vendor.prefix}_API_KEY"
        if not _value(environ, variable):
            continue
        try:
            check_key(environ[variable], f"The key in {variable}")
            endpoint = ApiEndpoint(
                name=vendor.name,
                base_url=_value(environ, f"{vendor.prefix}_BASE_URL") or vendor.base_url,
                model=_value(environ, f"{vendor.prefix}_MODEL") or vendor.model,
                priority=len(found) + 1,
                provider=vendor.provider,
                api_key_env=variable,
            )
        except InvalidArgument as error:
            log.warning(
                "%s is set, but no endpoint can be made of it, %s_BASE_URL and %s_MODEL: %s",
                variable,
                vendor.prefix,
                vendor.prefix,
                error,
            )
            continue
        found.append(endpoint)
    return found


def _value(environ: Mapping[str, str], variable: str) -> str:
    """What a variable says; '' also for a placeholder such as `${user_config.key}` that a host left unfilled."""
    value = environ.get(variable, "").strip()
    return "" if unfilled(value) else value
