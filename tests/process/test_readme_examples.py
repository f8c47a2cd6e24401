"""The README's examples, by the SDK's own client over stdio, in the order in which a reader tries them.

Nobody waits longer than a reader would: each example must be through within seconds, and nothing on the way may say that
it cannot work.
"""

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.process.servers import ROOT, command, environment, until
from tests.support.llm_server import LlmServer, Step

KEY = "sk-of-a-reader-0123456789"
READER_WAITS = 20.0
"""Seconds that a reader waits for a result, however busy the machine; on a quiet one it is a fraction of one."""
NEVER_SAID = ("No live", "No running process", "no running process")
"""What would send a reader away although all is well."""
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Chat:
    """A chat with the server's tools: what a model would do for the reader."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def use(self, tool: str, /, **arguments: Any) -> Any:
        """The record of a call that must succeed, and must not discourage."""
        result = await self.client.call_tool(tool, arguments)
        said = "\n".join(block.text for block in result.content if block.type == "text")
        assert not result.is_error, said
        assert not any(words in said for words in NEVER_SAID), said
        return result.structured_content

    async def outcome(self, task_id: str) -> Any:
        """The result of a task, waited for as `next` says, in one call."""
        waited = await self.use("wait_for_task", task_id=task_id, timeout=READER_WAITS)
        assert waited["done"], waited
        return [task.get("result") for task in waited["tasks"]][-1]


class Reader:
    """Somebody with a terminal, a chat and two LLM providers."""

    def __init__(self, folder: Path, providers: LlmServer) -> None:
        self.folder, self.providers = folder, providers
        self.env = environment(folder, allow_hosts="127.0.0.1", keys="file")
        self.env["DEEPSEEK_API_KEY"] = KEY

    @asynccontextmanager
    async def chat(self, *options: str) -> AsyncIterator[Chat]:
        program, *arguments = command(*options)
        with (self.folder / "server.log").open("a", encoding="utf-8") as log:
            server = StdioServerParameters(command=program, args=arguments, env=self.env, cwd=self.folder)
            async with Client(stdio_client(server, errlog=log)) as client:
                yield Chat(client)

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words),
            env=self.env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    def work_until_done(self) -> None:
        """Run a worker until doctor counts one completed task."""
        worker = subprocess.Popen(command("worker"), env=self.env, cwd=self.folder, stderr=subprocess.DEVNULL)
        try:
            until(lambda: "1 completed" in self.run("doctor").stdout, "the worker to do it")
        finally:
            worker.terminate()
            worker.wait(10)


@pytest.fixture
def reader(tmp_path: Path, llm_server: LlmServer) -> Reader:
    return Reader(tmp_path, llm_server)


def deepseek(reader: Reader, **given: Any) -> dict[str, Any]:
    """The endpoint of the README's own sentence, at the stand-in's address."""
    (words,) = re.findall(r"Add the API endpoint deepseek, (.*?)and ask it for a haiku", README, re.DOTALL)
    assert "model\ndeepseek-chat, key from DEEPSEEK_API_KEY, at most 100 requests a minute" in words
    return {
        "name": "deepseek",
        "base_url": reader.providers.base_url("deepseek"),
        "model": "deepseek-chat",
        "api_key_env": "DEEPSEEK_API_KEY",
        "max_requests_per_minute": 100,
        **given,
    }


async def test_doctor_then_an_echo_then_a_haiku_in_the_background(reader: Reader) -> None:
    assert "BAD" not in reader.run("doctor").stdout
    assert '"Publish an echo task and wait for it."' in README
    async with reader.chat() as chat:
        echo = await chat.use("publish_enhanced_task", name="echo", payload={"hello": "world"})
        assert echo["next"].startswith("wait_for_task(")
        assert await chat.outcome(echo["task_id"]) == {"hello": "world"}

        reader.providers.script("deepseek", Step(text="An old silent pond"))
        added = await chat.use("add_api_endpoint", **deepseek(reader))
        assert added["usable"] is True
        haiku = await chat.use("publish_enhanced_task", name="ai_call", payload={"prompt": "A haiku, please."})
        assert "why" not in haiku, "the endpoint was added a moment ago"
        result = await chat.outcome(haiku["task_id"])
        assert (result["text"], result["endpoint"]) == ("An old silent pond", "deepseek")
    assert "No running process" not in (reader.folder / "server.log").read_text(encoding="utf-8")


async def test_a_key_that_is_given_later_with_set_key(reader: Reader) -> None:
    del reader.env["DEEPSEEK_API_KEY"]
    async with reader.chat() as chat:
        added = await chat.use("add_api_endpoint", **deepseek(reader))
        assert added["usable"] is False
        (way_out,) = re.findall(r"`heablcoin-cloud (set-key deepseek)`", " ".join(added["warnings"]))
        reader.run(*way_out.split(), stdin=f"{KEY}\n")
        haiku = await chat.client.call_tool(
            "publish_enhanced_task", {"name": "ai_call", "payload": {"prompt": "A haiku."}}
        )
        assert haiku.structured_content is not None
        assert (await chat.outcome(haiku.structured_content["task_id"]))["endpoint"] == "deepseek"


async def test_the_quote_in_small_prompts_with_a_fallback_then_a_summary(reader: Reader) -> None:
    reader.providers.script("deepseek", Step(status=503), Step(text="yes"), Step(status=429), Step(text="yes"))
    reader.providers.script("openai", Step(text="yes"))
    prompts = [
        {"key": f"p{number}", "name": "ai_call", "payload": {"prompt": f"Is {number} even?"}} for number in range(20)
    ]
    together = ", ".join(f"${{p{number}.text}}" for number in range(20))
    summary = {
        "key": "summary",
        "name": "ai_call",
        "payload": {"prompt": f"Summarise: {together}"},
        "depends_on": [prompt["key"] for prompt in prompts],
    }
    async with reader.chat() as chat:
        await chat.use("add_api_endpoint", **deepseek(reader, priority=1, max_requests_per_minute=60))
        await chat.use(
            "add_api_endpoint",
            **deepseek(reader, name="openai", base_url=reader.providers.base_url("openai"), priority=2),
        )
        made = await chat.use("publish_task_graph", tasks=[*prompts, summary])
        (ids,) = re.findall(r'task_id="([^"]+)"', made["next"])
        waited = await chat.use("wait_for_task", task_id=ids, timeout=READER_WAITS)
        assert waited["done"], waited
        assert (waited["ended"], {task["status"] for task in waited["tasks"]}) == ("21 of 21", {"completed"})
        stats = await chat.use("get_api_manager_stats")
        assert stats["total_endpoints"] == 2
    asked = [
        arrival.body["messages"][-1]["content"]
        for name in ("deepseek", "openai")
        for arrival in reader.providers.arrivals(name)
    ]
    assert f"Summarise: {', '.join(['yes'] * 20)}" in asked


async def test_work_goes_on_in_a_worker_when_the_window_is_closed(reader: Reader) -> None:
    async with reader.chat() as chat:
        task = await chat.use("publish_enhanced_task", name="echo", payload={"kept": True}, delay=2)
    await anyio.to_thread.run_sync(reader.work_until_done)
    async with reader.chat() as chat:
        assert await chat.outcome(task["task_id"]) == {"kept": True}


async def test_the_handlers_file_in_a_chats_server(reader: Reader) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (reader.folder / "handlers.py").write_text(source, encoding="utf-8")
    printed = json.loads(reader.run("print-config", "claude-desktop", "--handlers", "handlers.py").stdout)
    given = printed["mcpServers"]["heablcoin-cloud"]["args"]
    async with reader.chat(*given[given.index("--handlers") :]) as chat:
        task = await chat.use("publish_enhanced_task", name="market_analysis", payload={"symbol": "BTC/USDT"})
        assert await chat.outcome(task["task_id"]) == {"symbol": "BTC/USDT", "attempt": 1}
        wrong = await chat.use("publish_enhanced_task", name="market_analysis", payload={})
        waited = await chat.use("wait_for_task", task_id=wrong["task_id"])
        assert "A symbol is needed." in waited["tasks"][0]["error"]
        assert waited["next"].startswith("its error says what to correct")
        many = [
            {"key": f"{symbol}{number}", "name": "market_analysis", "payload": {"symbol": symbol}}
            for symbol, count in (("BTC", 32), ("ETH", 1))
            for number in range(count)
        ]
        made = {row["key"]: row["task_id"] for row in (await chat.use("publish_task_graph", tasks=many))["tasks"]}
        assert await chat.outcome(made["ETH0"]) == {"symbol": "ETH", "attempt": 1}
        assert await chat.outcome(made["BTC29"]) == {"symbol": "BTC", "attempt": 1}
        shown = await chat.use("get_task_status", task_id=made["BTC31"])
        assert shown["why"].startswith("It waits for market_analysis's limit of 30 a minute (symbol BTC): about ")


async def test_a_question_in_the_middle_of_a_graph(reader: Reader) -> None:
    async with reader.chat() as chat:
        graph = [
            {"key": "ask", "name": "ask_user", "payload": {"message": "Publish it?"}},
            {"key": "say", "name": "echo", "payload": {"answer": "${ask}"}, "depends_on": "ask"},
        ]
        made = await chat.use("publish_task_graph", tasks=graph)
        asked, said = (row["task_id"] for row in made["tasks"])
        shown = await chat.use("get_task_status", task_id=asked)
        assert shown["why"] == "It waits for the user's answer."
        assert shown["next"].startswith("ask the user")
        await chat.use("update_task_status", task_id=asked, status="completed", result="yes")
        assert await chat.outcome(said) == {"answer": "yes"}


async def test_the_queue_goes_to_a_file_and_into_another_database(reader: Reader) -> None:
    async with reader.chat() as chat:
        task = await chat.use("publish_enhanced_task", name="echo", payload={"a": 1})
        await chat.outcome(task["task_id"])
    reader.run("export", "queue.jsonl")
    reader.env["HEABLCOIN_CLOUD_DATABASE"] = str(reader.folder / "other.db")
    reader.run("import", "queue.jsonl")
    async with reader.chat() as chat:
        assert await chat.outcome(task["task_id"]) == {"a": 1}
