// The conversation of conversation.py, through the TypeScript SDK's client: version 1 (`sdk`) or 2 (`client`).
// node typescript.mjs TARGET REPORT
import { writeFileSync } from "node:fs";

const [target, report] = [JSON.parse(process.argv[2]), process.argv[3]];
const version1 = target.package === "sdk";
const root = version1 ? "@modelcontextprotocol/sdk/client" : "@modelcontextprotocol/client";
const index = await import(version1 ? `${root}/index.js` : root);
const stdio = await import(version1 ? `${root}/stdio.js` : `${root}/stdio`);
const http = version1 ? await import(`${root}/streamableHttp.js`) : index;
const sse = version1 ? await import(`${root}/sse.js`) : index;

const strays = [];

function transport() {
  const [command, ...args] = target.command;
  const requestInit = { headers: target.headers };
  switch (target.transport) {
    case "stdio":
      return new stdio.StdioClientTransport({ command, args, env: target.env, stderr: "ignore" });
    case "http":
      return new http.StreamableHTTPClientTransport(new URL(`${target.url}/mcp`), { requestInit });
    default:
      return new sse.SSEClientTransport(new URL(`${target.url}/sse`), { requestInit });
  }
}

async function connected(use) {
  const client = new index.Client({ name: "suite", version: "1" }, { capabilities: {} });
  client.onerror = (error) => strays.push(String(error));
  await client.connect(transport());
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

async function call(client, name, given, options) {
  const params = { name, arguments: given };
  const result = version1 ? await client.callTool(params, undefined, options) : await client.callTool(params, options);
  return {
    text: result.content.map((block) => block.text ?? "").join("\n"),
    error: Boolean(result.isError),
    kinds: result.content.map((block) => block.type),
  };
}

function taskId(outcome) {
  const found = outcome.text.match(/task_id\W+([0-9a-f]{16})/);
  if (!found) throw new Error(`no task id in ${JSON.stringify(outcome)}`);
  return found[1];
}

async function converse() {
  const seen = {};
  await connected(async (client) => {
    seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
    seen.publish_enhanced_task = await call(client, "publish_enhanced_task", {
      name: "echo",
      payload: '{"symbol": "BTC/USDT"}',
      priority: 3,
      tags: "analysis",
      timeout: 60,
    });
    seen.task = taskId(seen.publish_enhanced_task);
    await call(client, "wait_for_task", { task_id: seen.task, timeout: 20 });
    seen.list_enhanced_tasks = await call(client, "list_enhanced_tasks", { tags: "analysis", limit: 50 });
    seen.add_api_endpoint = await call(client, "add_api_endpoint", {
      name: target.name,
      base_url: "https://api.deepseek.com/v1",
      model: "deepseek-chat",
      api_key_env: "DEEPSEEK_API_KEY",
      priority: 2,
      max_requests_per_minute: 100,
    });
    seen.get_api_manager_stats = await call(client, "get_api_manager_stats", {});
    seen["wrong call"] = await call(client, "get_task_status", { task_id: "no-such-task" });
    seen.graph = await call(client, "publish_task_graph", {
      tasks: [
        { key: "a", name: "echo", payload: '{"n": 1}' },
        { key: "b", name: "echo", payload: '{"before": "${a.n}"}', depends_on: "a" },
      ],
    });
    await waiting(client, seen);
    const read = await client.readResource({ uri: `task://${seen.task}` });
    seen.resources = {
      listed: (await client.listResources()).resources.map((one) => one.uri),
      templates: (await client.listResourceTemplates()).resourceTemplates.map((one) => one.uriTemplate),
      read: read.contents[0].text,
    };
    const got = await client.getPrompt({ name: "publish_market_analysis_zh", arguments: { symbol: "ETH/USDT" } });
    seen.prompts = {
      listed: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
      got: got.messages[0].content.text,
    };
    seen.special = [...strays]; // before the end of the connection, which may be an error of its own
  });
  seen.reconnect = await connected((client) => call(client, "get_task_status", { task_id: seen.task }));
  return seen;
}

async function waiting(client, seen) {
  const long = taskId(await call(client, "publish_enhanced_task", { name: "sleep", payload: '{"seconds": 50}' }));
  const stop = new AbortController();
  let heard;
  const begun = new Promise((resolve) => (heard = resolve));
  seen.progress = 0;
  const onprogress = () => {
    seen.progress += 1;
    heard();
  };
  const options = { signal: stop.signal, onprogress, timeout: 60_000 };
  const waits = call(client, "wait_for_task", { task_id: long, timeout: 50 }, options);
  waits.catch(() => {});
  await begun;
  const started = Date.now();
  stop.abort("not needed any more");
  seen.cancel = await waits.then(
    (outcome) => JSON.stringify(outcome),
    () => "cancelled",
  );
  await call(client, "get_enhanced_task_stats", {}); // over HTTP the next request may overtake the word of the end
  seen["after cancel"] = await call(client, "cancel_task", { task_id: long });
  seen["seconds after cancel"] = (Date.now() - started) / 1000;
}

let seen;
try {
  seen = await converse();
} catch (error) {
  seen = { crash: `${error?.stack ?? error}\n${strays.join("\n")}` };
}
writeFileSync(report, JSON.stringify(seen));
process.exit(0);
