"""What the SDKs of OpenAI and Anthropic make of answers. Runs in the peers' own environment: JSON lines in, JSON lines out.

In:  {"wire": "openai", "url": "http://127.0.0.1:1234/name", "stream": true}
Out: {"text": "...", "reasoning": "...", "finish_reason": "stop", "tokens_in": 7, "tokens_out": 3} or {"error": "APIStatusError"}
"""

import json
import sys
from typing import Any

import anthropic
import openai

MESSAGES: Any = [{"role": "user", "content": "hi"}]
KEY = "sk-peers-0123456789"


def of_openai(url: str, *, stream: bool) -> dict[str, Any]:
    client = openai.OpenAI(api_key=KEY, base_url=url, max_retries=0, timeout=20)
    if not stream:
        answer = client.chat.completions.create(model="m", messages=MESSAGES)
        message = answer.choices[0].message
        return told(
            message.content,
            getattr(message, "reasoning_content", None),
            answer.choices[0].finish_reason,
            answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens),
        )
    text, reasoning, finish_reason, usage = "", "", None, None
    for chunk in client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ):
        if chunk.usage:
            usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        if chunk.choices:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
            finish_reason = chunk.choices[0].finish_reason or finish_reason
    return told(text, reasoning, finish_reason, usage)


def of_anthropic(url: str, *, stream: bool) -> dict[str, Any]:
    client = anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0, timeout=20)
    if stream:
        with client.messages.stream(model="m", messages=MESSAGES, max_tokens=50) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(model="m", messages=MESSAGES, max_tokens=50)
    return told(
        "".join(block.text for block in answer.content if block.type == "text"),
        "".join(block.thinking for block in answer.content if block.type == "thinking"),
        answer.stop_reason,
        answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens),
    )


def told(text: Any, reasoning: Any, finish_reason: Any, usage: Any) -> dict[str, Any]:
    tokens_in, tokens_out = usage or (None, None)
    return {
        "text": text or "",
        "reasoning": reasoning or "",
        "finish_reason": finish_reason or "",
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
    }


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        of = of_openai if asked["wire"] == "openai" else of_anthropic
        try:
            found = of(asked["url"], stream=asked["stream"])
        except Exception as error:
            found = {"error": type(error).__name__, "says": str(error)[:200]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
