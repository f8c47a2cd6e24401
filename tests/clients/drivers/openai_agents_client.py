"""openai-agents: its servers, and its conversion of every tool to a strict schema."""

from contextlib import asynccontextmanager

import conversation
from agents import Agent
from agents.mcp import MCPServerSse, MCPServerStdio, MCPServerStreamableHttp
from agents.mcp.util import MCPUtil
from agents.run_context import RunContextWrapper
from conversation import of_blocks


class Session:
    def __init__(self, server):
        self.server = server

    async def tools(self):
        return [tool.name for tool in await self.server.list_tools()]

    async def call(self, name, arguments):
        return of_blocks(await self.server.call_tool(name, arguments))

    async def resources(self, task_id):
        listed = [str(one.uri) for one in (await self.server.list_resources()).resources]
        templates = [one.uri_template for one in (await self.server.list_resource_templates()).resource_templates]
        read = await self.server.read_resource(f"task://{task_id}")
        return {"listed": listed, "templates": templates, "read": read.contents[0].text}

    async def prompts(self, _task_id):
        listed = [prompt.name for prompt in (await self.server.list_prompts()).prompts]
        got = await self.server.get_prompt("publish_market_analysis_zh", {"symbol": "ETH/USDT"})
        return {"listed": listed, "got": got.messages[0].content.text}

    async def special(self, _task_id):
        """The tools that could not be made strict."""
        agent = Agent(name="a", mcp_servers=[self.server])
        tools = await MCPUtil.get_all_function_tools([self.server], True, RunContextWrapper(None), agent)
        return [tool.name for tool in tools if not tool.strict_json_schema]


def server_of(target):
    if target["transport"] == "stdio":
        command, *args = target["command"]
        return MCPServerStdio(
            {"command": command, "args": args, "env": target["env"]}, client_session_timeout_seconds=90
        )
    kind, path = (MCPServerStreamableHttp, "/mcp") if target["transport"] == "http" else (MCPServerSse, "/sse")
    return kind({"url": target["url"] + path, "headers": target["headers"]}, client_session_timeout_seconds=90)


@asynccontextmanager
async def connect(target):
    async with server_of(target) as server:
        yield Session(server)


if __name__ == "__main__":
    conversation.main(connect)
