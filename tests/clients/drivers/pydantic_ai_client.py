"""pydantic-ai: its toolset."""

import json
from contextlib import asynccontextmanager

import conversation
from conversation import Outcome
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from pydantic_ai.mcp import MCPToolset


class Session:
    def __init__(self, toolset, heard):
        self.toolset, self.heard = toolset, heard

    async def tools(self):
        return [tool.name for tool in await self.toolset.list_tools()]

    async def call(self, name, arguments):
        try:
            value = await self.toolset.direct_call_tool(name, arguments)
        except ToolError as error:
            return Outcome(str(error), error=True)
        return Outcome(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    async def call_with_progress(self, name, arguments, heard):
        self.heard.append(heard)
        return await self.call(name, arguments)

    async def resources(self, task_id):
        listed = [str(one.uri) for one in await self.toolset.list_resources()]
        templates = [one.uri_template for one in await self.toolset.list_resource_templates()]
        return {"listed": listed, "templates": templates, "read": await self.toolset.read_resource(f"task://{task_id}")}

    async def prompts(self, _task_id):
        listed = [prompt.name for prompt in await self.toolset.list_prompts()]
        got = await self.toolset.get_prompt("publish_market_analysis_zh", {"symbol": "ETH/USDT"})
        return {"listed": listed, "got": str(got.messages[0].content)}


def transport(target):
    match target["transport"]:
        case "stdio":
            command, *args = target["command"]
            return StdioTransport(command, args, env=target["env"], keep_alive=False)
        case "http":
            return StreamableHttpTransport(f"{target['url']}/mcp", headers=target["headers"])
    return SSETransport(f"{target['url']}/sse", headers=target["headers"])


@asynccontextmanager
async def connect(target):
    heard = []

    async def on_progress(progress, total, message):
        for one in heard:
            await one(progress, total, message)

    async with MCPToolset(
        transport(target), init_timeout=60, tool_error_behavior="error", progress_handler=on_progress
    ) as toolset:
        yield Session(toolset, heard)


if __name__ == "__main__":
    conversation.main(connect)
