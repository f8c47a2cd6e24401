"""Parts of a message's content in the two ways they are written: OpenAI's and Anthropic's. Pure."""

import json
import re
from collections.abc import Mapping

from core.json_types import Json, JsonObject

_DATA_URL = re.compile(r"data:(?P<kind>[^;,]*)(?P<more>(?:;[^;,]*)*),", re.IGNORECASE)
_KINDS = {"image/jpg": "image/jpeg", "image/jpe": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
"""What browsers and tools call the four kinds of image, and how Anthropic wants them called."""
_BEGINNINGS = (("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"))
"""How an image of each kind begins in base64: Anthropic refuses one whose kind is told wrongly."""
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_PDF = "application/pdf"


def as_blocks(content: Json) -> list[JsonObject]:
    """A content in Anthropic's blocks, without the blank texts it would refuse. What is not known stays as it is."""
    parts = content if isinstance(content, list) else [content]
    blocks: list[JsonObject] = []
    for part in parts:
        block = _as_block({"type": "text", "text": part} if isinstance(part, str) else part)
        if block is not None and not (block.get("type") == "text" and not str(block.get("text") or "").strip()):
            blocks.append(block)
    return blocks


def _as_block(part: Json) -> JsonObject | None:
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    more: JsonObject = {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
    if kind in _TEXTS and kind != "text":
        return {"type": "text", "text": part.get(_TEXTS[str(kind)]), **more}
    if kind in {"image_url", "input_image"}:
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, Mapping) else given
        return {**_media(url), **more} if isinstance(url, str) else dict(part)
    if kind == "file":
        file = part.get("file")
        data = file.get("file_data") if isinstance(file, Mapping) else None
        return {**_media(data), **more} if isinstance(data, str) else dict(part)
    return dict(part)


def _media(url: str) -> JsonObject:
    """An image or document by its URL, which may hold the data itself."""
    found = _DATA_URL.match(url)
    if found is None:
        return {"type": "image", "source": {"type": "url", "url": url}}
    data = url[found.end() :]
    kind = found["kind"].strip().lower()
    kind = next((real for beginning, real in _BEGINNINGS if data.startswith(beginning)), _KINDS.get(kind, kind))
    source: JsonObject = {"type": "base64", "media_type": kind, "data": data}
    return {"type": "document" if kind == _PDF else "image", "source": source}


def as_parts(blocks: list[Json]) -> list[Json]:
    """Anthropic's blocks in OpenAI's parts; tool calls and results are no parts and stand elsewhere."""
    parts: list[Json] = []
    for block in blocks:
        part = _as_part(block) if isinstance(block, Mapping) else block
        if part is not None:
            parts.append(part)
    return parts


def _as_part(block: JsonObject) -> Json:
    kind = block.get("type")
    if kind in {"thinking", "redacted_thinking"}:
        return None
    source = block.get("source")
    if kind not in {"image", "document"} or not isinstance(source, Mapping):
        return dict(block)
    if source.get("type") == "text":
        return {"type": "text", "text": source.get("data")}
    url = source.get("url")
    if source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": str(block.get("title") or "document.pdf"), "file_data": url}}


def as_input(arguments: Json) -> JsonObject:
    """A tool call's arguments as the object Anthropic wants; text that is none is kept as one field of it."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, str) or not arguments.strip():
        return {}
    try:
        found: Json = json.loads(arguments)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}
