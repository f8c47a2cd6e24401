"""The guide's four chat sentences as prompts, in English and Chinese."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mcp.server import MCPServer
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import PromptArgument
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from core.cloud.endpoint import NAME as ENDPOINT_NAME
from core.cloud.pool.discovery import VENDORS

MAX_ARGUMENT = 200


@dataclass(frozen=True, slots=True)
class Argument:
    """A word of the sentence that the user may replace."""

    default: str
    english: str
    chinese: str
    whole: bool = False
    """True for a whole number, False for a word."""


@dataclass(frozen=True, slots=True)
class ChatSentence:
    """One sentence a user says to the chat, with the call it leads to."""

    name: str
    titles: tuple[str, str]
    sentences: tuple[str, str]
    call: str
    arguments: Mapping[str, Argument]


STATUS_ZH = {
    "pending": "待处理",
    "acknowledged": "已领取",
    "running": "运行中",
    "completed": "已完成",
    "failed": "已失败",
    "cancelled": "已取消",
    "expired": "已过期",
}

STATUS_EN = {chinese: english for english, chinese in STATUS_ZH.items()}

SENTENCES = (
    ChatSentence(
        "publish_market_analysis",
        ("Publish a high-priority analysis", "发布高优先级分析任务"),
        (
            "Publish a high-priority market analysis task for {symbol}, with a timeout of {timeout} seconds.",
            "发布一个高优先级的市场分析任务，分析 {symbol}，{timeout}秒超时",
        ),
        'publish_enhanced_task(name="market_analysis", payload={payload}, priority=3, '
        'timeout={timeout}, tags="analysis,urgent")',
        {
            "symbol": Argument("BTC/USDT", "What to analyse", "分析对象"),
            "timeout": Argument("60", "Seconds one attempt may run", "超时秒数", whole=True),
        },
    ),
    ChatSentence(
        "list_high_priority_tasks",
        ("Show the waiting high-priority tasks", "查看高优先级任务"),
        (
            "Show all {status} tasks of high priority.",
            "查看所有{status_zh}的高优先级任务",
        ),
        'list_enhanced_tasks(status="{status}", priority_min=3, limit=10)',
        {"status": Argument("pending", f"Task status: {', '.join(STATUS_ZH)}", f"任务状态：{'、'.join(STATUS_EN)}")},
    ),
    ChatSentence(
        "add_llm_endpoint",
        ("Add an LLM endpoint", "添加 API 端点"),
        (
            "Add the {name} API endpoint, priority {priority}, limited to {per_minute} requests a minute.",
            "添加 {name} API 端点，优先级{priority}，每分钟{per_minute}次请求限制",
        ),
        "add_api_endpoint(name={call_name}, {api}, priority={priority}, max_requests_per_minute={per_minute})",
        {
            "name": Argument("DeepSeek", "Name of the endpoint", "端点名称"),
            "priority": Argument("2", "Lower is preferred", "数字小者优先", whole=True),
            "per_minute": Argument("100", "Requests a minute", "每分钟请求数", whole=True),
        },
    ),
    ChatSentence(
        "show_api_statistics",
        ("Show the API statistics", "查看 API 统计信息"),
        ("Show the statistics of the API manager.", "查看 API 管理器的统计信息"),
        "get_api_manager_stats()",
        {},
    ),
)


def add_prompts(server: MCPServer) -> None:
    """Register each sentence under its name in English and under `<name>_zh` in Chinese."""
    for sentence in SENTENCES:
        for language in (0, 1):
            server.add_prompt(_prompt(sentence, language))


def _prompt(sentence: ChatSentence, language: int) -> Prompt:
    arguments = [
        PromptArgument(name=name, description=f"{(a.english, a.chinese)[language]} ({a.default})", required=False)
        for name, a in sentence.arguments.items()
    ]
    return Prompt(
        name=sentence.name + ("", "_zh")[language],
        title=sentence.titles[language],
        description=sentence.sentences[language].format(**_words(sentence, {})),
        arguments=arguments,
        fn=_renderer(sentence, language),
        context_kwarg=None,
    )


def _renderer(sentence: ChatSentence, language: int) -> Callable[..., Awaitable[str]]:
    lead = ("This is the call: ", "对应的工具调用：")[language]

    async def render(**given: str) -> str:
        if unknown := sorted(given.keys() - sentence.arguments.keys()):
            raise MCPError(INVALID_PARAMS, f"The prompt {sentence.name} has no argument {unknown[0][:40]!r}.")
        words = _words(sentence, given)
        return f"{sentence.sentences[language].format(**words)}\n\n{lead}{sentence.call.format(**words)}"

    return render


def _words(sentence: ChatSentence, given: Mapping[str, str]) -> dict[str, str]:
    """What goes into the sentence and its call: what the user gave, else the guide's own words."""
    words = {name: _word(given.get(name, "")) or argument.default for name, argument in sentence.arguments.items()}
    for name, argument in sentence.arguments.items():
        if argument.whole:
            words[name] = _number(sentence, name, words[name])
    if "status" in words:
        words["status"] = _status(sentence, words["status"])
        words["status_zh"] = STATUS_ZH[words["status"]]
    if "name" in words:
        plain = words["name"].lower().replace(" ", "-")
        words["call_name"] = f'"{plain}"' if ENDPOINT_NAME.fullmatch(plain) else "..."
        words["api"] = _api(plain)
    if "symbol" in words:
        words["payload"] = repr(json.dumps({"symbol": words["symbol"]}, ensure_ascii=False))
    return words


def _api(name: str) -> str:
    """The arguments that say where the API called `name` is: filled in for the vendors we know."""
    for vendor in VENDORS:
        if vendor.name == name:
            wire = "" if vendor.provider == "openai" else f', provider="{vendor.provider}"'
            key = f'api_key_env="{vendor.prefix}_API_KEY"'
            return f'base_url="{vendor.base_url}", model="{vendor.model}", {key}{wire}'
    return "base_url=..., model=..., api_key_env=..."


def _number(sentence: ChatSentence, name: str, word: str) -> str:
    if not (word.isascii() and word.isdecimal()):
        raise MCPError(
            INVALID_PARAMS,
            f"The prompt {sentence.name} needs a whole number as {name}. Fix: {sentence.arguments[name].english}, "
            f"such as {sentence.arguments[name].default}.",
        )
    return str(int(word))


def _status(sentence: ChatSentence, word: str) -> str:
    status = STATUS_EN.get(word, word.lower())
    if status not in STATUS_ZH:
        raise MCPError(
            INVALID_PARAMS,
            f"The prompt {sentence.name} knows no such status. Fix: use one of: {', '.join(STATUS_ZH)} "
            f"({'、'.join(STATUS_EN)}).",
        )
    return status


def _word(value: str) -> str:
    """One line of the user's, short enough for a sentence."""
    return " ".join(value.split())[:MAX_ARGUMENT]
