"""langchain-mcp-adapters: its tools, and what ChatOpenAI makes of their results."""

from contextlib import asynccontextmanager

import conversation
from conversation import Outcome
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import ToolException
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.prompts import load_mcp_prompt
from langchain_mcp_adapters.resources import load_mcp_resources
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI


class Session:
    def __init__(self, session, tools, heard, target):
        self.session, self.offered, self.heard, self.target = (
            session,
            {tool.name: tool for tool in tools},
            heard,
            target,
        )

    async def tools(self):
        return list(self.offered)

    async def call(self, name, arguments):
        try:
            content = await self.offered[name].ainvoke(arguments)
        except ToolException as error:
            return Outcome(str(error), error=True)
        if isinstance(content, str):
            return Outcome(content, error="Fix:" in content)
        text = "\n".join(block.get("text", "") for block in content)
        return Outcome(text, error="Fix:" in text, kinds=[block["type"] for block in content])

    async def call_with_progress(self, name, arguments, heard):
        self.heard.append(heard)
        return await self.call(name, arguments)

    async def resources(self, task_id):
        blobs = await load_mcp_resources(self.session, uris=f"task://{task_id}")
        return {"listed": None, "templates": None, "read": blobs[0].as_string()}

    async def prompts(self, _task_id):
        messages = await load_mcp_prompt(self.session, "publish_market_analysis_zh", arguments={"symbol": "ETH/USDT"})
        return {"listed": None, "got": messages[0].content}

    async def special(self, _task_id):
        """The result of a tool, sent on to a chat model over the wire."""
        chat = ChatOpenAI(base_url=self.target["llm"], api_key="x", model="m", max_retries=0)
        asked = {"name": "publish_enhanced_task", "args": {"name": "echo"}, "id": "call-1", "type": "tool_call"}
        message = await self.offered["publish_enhanced_task"].ainvoke(asked)
        answer = await chat.ainvoke([HumanMessage("Publish it."), AIMessage("", tool_calls=[asked]), message])
        return answer.content


@asynccontextmanager
async def connect(target):
    heard = []

    async def on_progress(progress, total, message, _context):
        for one in heard:
            await one(progress, total, message)

    match target["transport"]:
        case "stdio":
            command, *args = target["command"]
            server = {"transport": "stdio", "command": command, "args": args, "env": target["env"]}
        case "http":
            server = {"transport": "streamable_http", "url": f"{target['url']}/mcp", "headers": target["headers"]}
        case _:
            server = {"transport": "sse", "url": f"{target['url']}/sse", "headers": target["headers"]}
    client = MultiServerMCPClient({"queue": server}, callbacks=Callbacks(on_progress=on_progress))
    async with client.session("queue") as session:
        callbacks = Callbacks(on_progress=on_progress)
        tools = await load_mcp_tools(session, callbacks=callbacks, server_name="queue")
        yield Session(session, tools, heard, target)


if __name__ == "__main__":
    conversation.main(connect)
