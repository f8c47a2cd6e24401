"""Token counts, as answers, errors and the objects of SDKs tell them. Pure."""

import logging
import math
from collections.abc import Mapping

log = logging.getLogger(__name__)

MOST_TOKENS = 10**8
"""Tokens one call can have used: ten times the largest context there is. Who claims more is not believed."""
LONGEST_NUMBER = 30
"""Characters of a text that may be a number."""

TokenCounts = tuple[int | None, int | None]
"""Tokens in and out, None where nothing was said."""


def as_count(value: object) -> int | None:
    """A token count, None when there is none. Some servers write 12 as `12.0` or `"12"`, and some count fractions."""
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float):
        value = round(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def plausible(tokens: TokenCounts, who: str) -> TokenCounts:
    """`tokens` as `who` (an endpoint's name) told them, without figures that no answer can have: those are named in the log.

    Capped, one such figure would still use up a daily limit.
    """
    for name, count in zip(("prompt", "answer"), tokens, strict=True):
        if count is not None and count > MOST_TOKENS:
            shown = str(count) if count < 10**LONGEST_NUMBER else f"more than 10^{LONGEST_NUMBER}"
            log.warning("%s says that its %s took %s tokens, which cannot be: not counted", who, name, shown)
    tokens_in, tokens_out = tokens
    return _believed(tokens_in), _believed(tokens_out)


def _believed(count: int | None) -> int | None:
    return None if count is None or count > MOST_TOKENS else count


def tokens_of(result: object) -> tuple[int, int]:
    """Tokens in and out: from `usage` in our own words, OpenAI's or Anthropic's, as JSON, as an SDK's object or in an error's body."""
    body = result if type(result) is dict else getattr(result, "body", None)
    found = body.get("usage") if body is not None and isinstance(body, Mapping) else None
    if found is None:
        found = getattr(result, "usage", None)
    if found is None:
        return 0, 0
    tokens_in = _count(found, "prompt_tokens", "input_tokens", "tokens_in")
    if tokens_in is not None:
        tokens_in += sum(
            _count(found, name) or 0 for name in ("cache_creation_input_tokens", "cache_read_input_tokens")
        )
    tokens_in, tokens_out = plausible(
        (tokens_in, _count(found, "completion_tokens", "output_tokens", "tokens_out")), "A result"
    )
    return tokens_in or 0, tokens_out or 0


def _count(usage: object, *names: str) -> int | None:
    for name in names:
        count = as_count(usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None))
        if count is not None:
            return count
    return None


def tokens_told(error: Exception) -> tuple[int, int]:
    """What a call that failed was charged for all the same, as far as its error tells."""
    try:
        return tokens_of(error)
    except Exception as trouble:  # noqa: BLE001 - an error that hides what it holds tells of no tokens
        log.debug("the usage in an error of type %s cannot be read (%s)", type(error).__name__, type(trouble).__name__)
        return 0, 0
