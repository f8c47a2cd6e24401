"""FastMCP's client."""

from contextlib import asynccontextmanager

import conversation
from conversation import of_blocks
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport


class Session:
    def __init__(self, client):
        self.client = client

    async def tools(self):
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, name, arguments):
        return of_blocks(await self.client.call_tool_mcp(name, arguments))

    async def call_with_progress(self, name, arguments, heard):
        return of_blocks(await self.client.call_tool_mcp(name, arguments, progress_handler=heard))

    async def resources(self, task_id):
        listed = [str(one.uri) for one in await self.client.list_resources()]
        templates = [one.uri_template for one in await self.client.list_resource_templates()]
        read = await self.client.read_resource(f"task://{task_id}")
        contents = getattr(read, "contents", read)
        return {"listed": listed, "templates": templates, "read": contents[0].text}

    async def prompts(self, _task_id):
        listed = [prompt.name for prompt in await self.client.list_prompts()]
        got = await self.client.get_prompt("publish_market_analysis_zh", {"symbol": "ETH/USDT"})
        return {"listed": listed, "got": got.messages[0].content.text}


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
    async with Client(transport(target), init_timeout=60) as client:
        yield Session(client)


if __name__ == "__main__":
    conversation.main(connect)
