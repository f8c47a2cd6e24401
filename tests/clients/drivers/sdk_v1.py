"""The official Python SDK, version 1."""

import asyncio
from contextlib import asynccontextmanager

import conversation
from conversation import of_blocks
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification
from pydantic import AnyUrl


class Session:
    def __init__(self, session, strays):
        self.session, self.strays = session, strays

    async def tools(self):
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def call(self, name, arguments):
        return of_blocks(await self.session.call_tool(name, arguments))

    async def call_with_progress(self, name, arguments, heard):
        request_id = self.session._request_id
        try:
            return of_blocks(await self.session.call_tool(name, arguments, progress_callback=heard))
        except asyncio.CancelledError:  # this SDK leaves it to the caller to tell the server
            params = CancelledNotificationParams(requestId=request_id, reason="not needed any more")
            notification = CancelledNotification(method="notifications/cancelled", params=params)
            await self.session.send_notification(ClientNotification(notification))
            raise

    async def resources(self, task_id):
        listed = [str(one.uri) for one in (await self.session.list_resources()).resources]
        templates = [one.uriTemplate for one in (await self.session.list_resource_templates()).resourceTemplates]
        read = await self.session.read_resource(AnyUrl(f"task://{task_id}"))
        return {"listed": listed, "templates": templates, "read": read.contents[0].text}

    async def prompts(self, _task_id):
        listed = [prompt.name for prompt in (await self.session.list_prompts()).prompts]
        got = await self.session.get_prompt("publish_market_analysis_zh", {"symbol": "ETH/USDT"})
        return {"listed": listed, "got": got.messages[0].content.text}

    async def special(self, _task_id):
        """What came that nobody waited for, such as the answer to a request that was cancelled."""
        await self.session.send_ping()
        return self.strays


def streams(target):
    match target["transport"]:
        case "stdio":
            command, *args = target["command"]
            return stdio_client(StdioServerParameters(command=command, args=args, env=target["env"]))
        case "http":
            return streamablehttp_client(f"{target['url']}/mcp", headers=target["headers"])
    return sse_client(f"{target['url']}/sse", headers=target["headers"])


@asynccontextmanager
async def connect(target):
    strays = []

    async def received(message):
        if isinstance(message, Exception):
            strays.append(repr(message))

    async with streams(target) as (read, write, *_), ClientSession(read, write, message_handler=received) as session:
        await session.initialize()
        yield Session(session, strays)


if __name__ == "__main__":
    conversation.main(connect)
