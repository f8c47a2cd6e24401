"""mcp-use."""

import os
from contextlib import asynccontextmanager

os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"

import conversation
from conversation import of_blocks
from mcp_use import MCPClient
from pydantic import AnyUrl


class Session:
    def __init__(self, session):
        self.session = session

    async def tools(self):
        return [tool.name for tool in await self.session.list_tools()]

    async def call(self, name, arguments):
        return of_blocks(await self.session.call_tool(name, arguments))

    async def resources(self, task_id):
        listed = [str(one.uri) for one in await self.session.list_resources()]
        read = await self.session.read_resource(AnyUrl(f"task://{task_id}"))
        return {"listed": listed, "templates": None, "read": read.contents[0].text}

    async def prompts(self, _task_id):
        listed = [prompt.name for prompt in await self.session.list_prompts()]
        got = await self.session.get_prompt("publish_market_analysis_zh", {"symbol": "ETH/USDT"})
        return {"listed": listed, "got": got.messages[0].content.text}


@asynccontextmanager
async def connect(target):
    if target["transport"] == "stdio":
        command, *args = target["command"]
        server = {"command": command, "args": args, "env": target["env"]}
    else:
        path = "/mcp" if target["transport"] == "http" else "/sse"
        server = {"url": target["url"] + path, "headers": target["headers"]}
    client = MCPClient({"mcpServers": {"queue": server}})
    try:
        yield Session(await client.create_session("queue"))
    finally:
        await client.close_all_sessions()


if __name__ == "__main__":
    conversation.main(connect)
