"""What tests of refusals send, and the shape in which most APIs refuse it."""

NOW = 1_750_000_000.0

SENT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say something about temperature."},
    ],
    "max_tokens": 50_000,
    "temperature": 1.7,
    "top_p": 0.9,
    "stop": ["END"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_object"},
    "frequency_penalty": 0.5,
    "top_k": 40,
    "store": True,
    "reasoning_effort": "high",
}


def openai(message, code=None, param=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
