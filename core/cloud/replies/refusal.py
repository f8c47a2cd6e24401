"""From an endpoint's refusal to what its requests are changed by. Pure.

A refusal counts only when it names something that was sent: a field, a role, a value above a bound that it tells. What it names as
the replacement is used; else the field is left out.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from core.cloud.replies.adaptation import MEANING, NEVER, Adaptation, How
from core.cloud.replies.complaint import Complaint
from core.cloud.replies.limit import REFUSED, Limit, limit_of, window_of
from core.cloud.replies.retry_after import Wait, told_wait
from core.json_types import JsonObject

ADAPTABLE = frozenset({400, 422})
ROLE_ONLY = frozenset({500})
"""Statuses with which some servers say that their chat template knows no such role."""

_PAIR = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_PLAIN_WORDS = frozenset(
    {"stream", "stop", "n", "user", "store", "seed", "metadata", "modalities", "thinking", "reasoning"}
)
"""Fields that are words of everyday language: they count where they are quoted or come after a colon."""
_INSTEAD = re.compile(r"\buse [`'\"]?([a-z][a-z0-9_]{1,40})[`'\"]? instead", re.IGNORECASE)
_GUESS = re.compile(r"did you mean [`'\"]?[\w.]+", re.IGNORECASE)
"""What was perhaps meant is not what is refused."""
_BOTH = re.compile(r"can(?:not|'t) both be (?:specified|set|used)", re.IGNORECASE)
_WRONG = re.compile(
    r"\binvalid\b|illegal|must be|should be|out of range|not in (?:the )?range|greater than|less than|非法|有误|取值|范围",
    re.IGNORECASE,
)
"""Words that find fault with a value."""
MOST_VALUES = 2
"""Fields that one such complaint may name; one that names more is about something else."""
LONGEST_VALUE = 60
_THINKING = re.compile(r"\bthink(?:ing)?\b(?: value)?", re.IGNORECASE)
_THINKING_FIELDS = ("reasoning_effort", "think", "thinking", "reasoning", "enable_thinking")
_JSON_MODE = re.compile(r"\bjson[ _-]?(?:output|mode|object|schema)", re.IGNORECASE)
_CAPS = (
    r"less than or equal to [`'\"]?{number}",
    r"valid range of \S+ is [\[(] ?[\d.]+ ?, ?{number}",
    r"supports at most {number}",
    r"> {number}, which is the maximum allowed",
    r"expected a value <= ?{number}",
    r"(?:must be|should be)?(?: in| within)? (?:the )?(?:range|interval)?:? ?[\[(] ?[\d.]+ ?, ?{number} ?[\])]",
    r"range:? [\d.]+ ?\.\. ?{number}",
    r"between [\d.]+ and {number}",
    r"must be at most {number}",
    r"maximum (?:value|allowed)(?: value)?(?: for \S+)? (?:is|of) {number}",
)
_CAP = re.compile("|".join(pattern.format(number=r"(\d{1,9}(?:\.\d{1,4})?)(?!\d)") for pattern in _CAPS), re.IGNORECASE)
_ROLE = re.compile(
    r"\brole\b|\broles\b|system messages?|system prompts?|developer (?:instruction|message)|system instruction",
    re.IGNORECASE,
)
_ROLE_UNKNOWN = re.compile(r"unknown variant|discriminator property 'role'", re.IGNORECASE)
_TEMPLATE = re.compile(
    r"unexpected (?:message )?role|roles? must alternate|only .{0,30}roles? (?:are|is)|developer instruction"
    r"|discriminator property 'role'",
    re.IGNORECASE,
)
"""Templates say only which roles they know, or that they do not know one."""
_MESSAGE_FIELD = re.compile(
    r"property '([a-z][a-z0-9_]{1,40})' is unsupported|\bmessages\.\d{1,5}\.(?:[\w-]{1,40}\.)?([a-z][a-z0-9_]{1,40})\n\s{0,8}Extra inputs"
)
_MESSAGE_NEEDS = frozenset({"role", "content", "tool_calls", "tool_call_id"})
_WORD = r"[`'\"\[]{name}[`'\"\].:]|(?:supplied|parameter|argument|field|model|property|name)s?:? [`'\"]?{name}\b|(?:^|\n){name}: "


@dataclass(frozen=True, slots=True)
class Told:
    """What an endpoint's error says about a request, as far as the pool goes by it. Holds nothing of the server's own text."""

    limit: Limit = Limit.NONE
    window: int = 0
    """Tokens of the context window that it names, 0 for none."""
    adaptations: tuple[Adaptation, ...] = ()
    """What to change so that the endpoint takes the request."""
    wait: Wait | None = None
    """How long it asks to be left alone, in its body."""


NOTHING = Told()


def told_by(
    status: int,
    complaint: Complaint,
    sent: JsonObject | None = None,
    known: Sequence[Adaptation] = (),
    fixed: Collection[str] = (),
) -> Told:
    """What an error says of the request `sent` (None where it is not known).

    `known` are the adaptations that were applied, `fixed` the fields that stand in the endpoint's own settings.
    """
    wait = told_wait(complaint)
    told = _told(status, complaint, sent, known, fixed)
    return told if wait is None else replace(told, wait=wait)


def _told(
    status: int,
    complaint: Complaint,
    sent: JsonObject | None,
    known: Sequence[Adaptation],
    fixed: Collection[str],
) -> Told:
    limit = limit_of(status, complaint)
    caps = _caps(complaint, sent) if sent is not None and status in ADAPTABLE else ()
    if caps:
        return Told(Limit.FIELD, adaptations=caps)
    if limit is Limit.CONTEXT:
        return Told(limit, window_of(complaint))
    found: tuple[Adaptation, ...] = ()
    if sent is not None and limit not in {Limit.FILTER, Limit.SIZE} and status in ADAPTABLE | ROLE_ONLY:
        found = tuple(_roles(complaint, sent, known))
        if not found and (status in ADAPTABLE or limit is Limit.FIELD):
            found = tuple(dict.fromkeys(_fields(complaint, sent, known)))
    if any(one.field in MEANING and one.field in fixed for one in found):
        return Told(Limit.SETTING)
    if found:
        return Told(Limit.FIELD, adaptations=found)
    return Told(limit) if limit is not Limit.NONE else NOTHING


def _fields(complaint: Complaint, sent: JsonObject, known: Sequence[Adaptation]) -> Iterator[Adaptation]:
    text = complaint.text
    if not (REFUSED.search(text) or limit_of(400, complaint) is Limit.FIELD):
        yield from _values(complaint, sent)
        return
    yield from _inside_messages(complaint, sent)
    named = list(_named(complaint, sent))
    if _BOTH.search(text) and len(named) == 2:
        first, second = sorted(named, key=lambda name: name != "temperature")
        yield Adaptation(How.UNLESS, second, first)
        return
    instead = _INSTEAD.search(text)
    for name in named:
        if name in NEVER:
            continue
        other = instead[1].lower() if instead and len(named) <= 2 else _PAIR.get(name, "")
        usable = other and other != name and other not in sent and other not in NEVER
        if usable and not _was_renamed(name, other, known):
            yield Adaptation(How.RENAME, name, other)
        else:
            yield Adaptation(How.OMIT, name)


def _values(complaint: Complaint, sent: JsonObject) -> Iterator[Adaptation]:
    """Values that are found fault with: others of the same field may be taken."""
    named = list(_named(complaint, sent)) if _WRONG.search(complaint.text) else []
    for name in named if len(named) <= MOST_VALUES else ():
        if isinstance(sent[name], int | float | str) and len(str(sent[name])) <= LONGEST_VALUE:
            yield Adaptation(How.VALUE, name, json.dumps(sent[name]))


def _was_renamed(name: str, other: str, known: Sequence[Adaptation]) -> bool:
    """Renaming it back would go round in circles."""
    return any(one.how is How.RENAME and {one.field, one.to} == {name, other} for one in known)


def _named(complaint: Complaint, sent: JsonObject) -> Iterator[str]:
    """The fields of `sent` that an error names, each once."""
    found: dict[str, None] = {}
    for param in complaint.params:
        name = re.split(r"[.\[]", param.removeprefix("body."), maxsplit=1)[0]
        if name in sent and name not in NEVER:
            found[name] = None
    for _, place in complaint.places:
        path = place[1:] if place[:1] == ("body",) else place
        if path and path[0] in sent and path[0] not in NEVER:
            found[path[0]] = None
    text = _GUESS.sub("", complaint.text)
    for name in sent:
        if name not in NEVER and name not in found and _mentions(text, name):
            found[name] = None
    if "response_format" in sent and _JSON_MODE.search(text) and not found:
        found["response_format"] = None
    if _THINKING.search(text) and not found:
        found.update(dict.fromkeys(name for name in _THINKING_FIELDS if name in sent))
    # What is offered as the replacement is not what is refused.
    instead = _INSTEAD.search(text)
    if instead:
        found.pop(instead[1].lower(), None)
    yield from found


def _mentions(text: str, name: str) -> bool:
    escaped = re.escape(name)
    if name in _PLAIN_WORDS or len(name) < 3:
        return bool(re.search(_WORD.format(name=escaped), text, re.IGNORECASE))
    return bool(re.search(rf"(?<![a-z0-9_]){escaped}(?![a-z0-9_])", text, re.IGNORECASE))


def _inside_messages(complaint: Complaint, sent: JsonObject) -> Iterator[Adaptation]:
    """Fields of messages: of another provider's answer that is part of the conversation, mostly."""
    messages = sent.get("messages")
    names = (
        {name for message in messages if isinstance(message, dict) for name in message}
        if isinstance(messages, list)
        else set()
    )
    named = [place[-1] for kind, place in complaint.places if kind == "extra_forbidden" and "messages" in place]
    if "messages" in complaint.text:
        named += [one or other for one, other in _MESSAGE_FIELD.findall(complaint.text)]
    for name in dict.fromkeys(named):
        if name in names - _MESSAGE_NEEDS:
            yield Adaptation(How.INSIDE, name)


def _caps(complaint: Complaint, sent: JsonObject) -> tuple[Adaptation, ...]:
    """A bound that the error tells, below what was sent."""
    text = complaint.text
    match = _CAP.search(text)
    if match is None or "context length" in text:
        return ()
    number = next(group for group in match.groups() if group)
    for name in _named(complaint, sent):
        value = sent[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < float(number) < value:
            return (Adaptation(How.CAP, name, number),)
    return ()


def _roles(complaint: Complaint, sent: JsonObject, known: Sequence[Adaptation]) -> Iterator[Adaptation]:
    messages = sent.get("messages")
    if not isinstance(messages, list):
        return
    used = {message.get("role") for message in messages if isinstance(message, dict)}
    text = complaint.text
    if not (REFUSED.search(text) or _ROLE_UNKNOWN.search(text)) or not (_ROLE.search(text) or _is_role(complaint)):
        return
    role = _refused_role(text, used)
    if role == "developer":
        was_system = any(one.how is How.ROLE and one.to == "developer" for one in known)
        yield Adaptation(How.ROLE, "developer", "user" if was_system else "system")
    elif role == "system":
        offered = re.search(r"use [`'\"]?developer", text, re.IGNORECASE)
        was_developer = any(one.how is How.ROLE and one.to == "system" for one in known)
        yield Adaptation(How.ROLE, "system", "developer" if offered and not was_developer else "user")


def _is_role(complaint: Complaint) -> bool:
    return any(param.endswith("role") for param in complaint.params) or any(
        place[-1:] == ("role",) for _, place in complaint.places
    )


def _refused_role(text: str, used: Collection[object]) -> str:
    """Which of the roles in use is refused: the one named before the list of those that are taken."""
    lower = text.lower()
    places = {role: lower.find(role) for role in ("developer", "system") if role in used and role in lower}
    if places:
        return min(places, key=lambda role: places[role])
    return next((role for role in ("developer", "system") if role in used), "") if _TEMPLATE.search(text) else ""
