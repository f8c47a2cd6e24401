"""The demo's handlers, and an example of a handlers file: `heablcoin-cloud --handlers FILE` runs tasks with it.

The names and payloads are the guide's. Prices are a fixed sample: nothing is fetched from an exchange.
"""

import asyncio
import math
from pathlib import Path

from core.cloud.api_manager import ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.task_context import TaskContext
from core.errors import Permanent
from core.json_types import Json, JsonObject
from server.demo.pdf import text_to_pdf

HOURS = 48
SAMPLES = {
    ("binance", "BTC/USDT"): [round(64_000 + 35 * hour + 900 * math.sin(hour / 4), 2) for hour in range(HOURS)],
}
SPIKE_PERCENT = 1.0
SUMMARISE = "Summarise for a busy reader:"


def fetch_data(payload: JsonObject) -> JsonObject:
    """`{"source": "binance"}` -> the symbol and its hourly closes."""
    source = payload.get("source")
    for (known, symbol), closes in SAMPLES.items():
        if known == source:
            return {"source": known, "symbol": symbol, "closes": list(closes)}
    raise Permanent(f"There is no sample of {source!r}.", f"use one of: {', '.join(name for name, _ in SAMPLES)}.")


def price_alert(payload: JsonObject) -> JsonObject:
    """`{"symbol": "BTC/USDT", "alert_type": "spike"}` -> whether the last hour moved enough to say so."""
    symbol, kind = payload.get("symbol"), payload.get("alert_type")
    closes = next((closes for (_, known), closes in SAMPLES.items() if known == symbol), None)
    if closes is None or kind != "spike":
        raise Permanent(f"There is no alert of type {kind!r} for {symbol!r}.", "use BTC/USDT and spike.")
    change = (closes[-1] / closes[-2] - 1) * 100
    return {
        "symbol": str(symbol),
        "alert": abs(change) >= SPIKE_PERCENT,
        "text": f"{symbol} {change:+.2f}% in an hour, {'a' if abs(change) >= SPIKE_PERCENT else 'no'} spike",
    }


def indicators(closes: list[float]) -> dict[str, float]:
    """Simple averages over 12 and 36 hours, and Wilder's relative strength index over 14, unsmoothed."""
    moves = [after - before for before, after in zip(closes[-15:], closes[-14:], strict=False)]
    gain, loss = sum(move for move in moves if move > 0), -sum(move for move in moves if move < 0)
    return {
        "last_close": closes[-1],
        "average_12h": round(sum(closes[-12:]) / 12, 2),
        "average_36h": round(sum(closes[-36:]) / 36, 2),
        "rsi_14h": round(100 * gain / (gain + loss), 2) if gain + loss else 50.0,
    }


def register(publisher: EnhancedCloudTaskPublisher, manager: ApiManager) -> None:
    """Called once by the server. `manager` is the pool that `add_api_endpoint` fills."""

    async def ask(prompt: str) -> tuple[str, str]:
        answer = await manager.achat([{"role": "user", "content": prompt}])
        return answer.text, answer.endpoint

    async def analyze_data(payload: JsonObject, context: TaskContext) -> JsonObject:
        """`{"method": "technical"}`, after fetch_data -> figures, and what a model of the pool says about them."""
        if payload.get("method") != "technical":
            raise Permanent(f"There is no method {payload.get('method')!r}.", "use technical.")
        data = dependency(context)
        closes = data["closes"]
        if not isinstance(closes, list):
            raise Permanent("The data holds no closes.", "fetch it anew with fetch_data")
        figures = indicators([float(close) for close in closes if isinstance(close, int | float)])
        context.progress(0.5, "figures done, asking the pool")
        comment, endpoint = await ask(
            f"Say in one sentence what this means for {data['symbol']}: {figures_text(figures)}"
        )
        return {
            "symbol": data["symbol"],
            "source": data["source"],
            "figures": dict(figures),
            "trend": "up" if figures["average_12h"] > figures["average_36h"] else "down",
            "comment": comment,
            "endpoint": endpoint,
        }

    async def generate_report(payload: JsonObject, context: TaskContext) -> JsonObject:
        """`{"format": "pdf"}` or `text`, after analyze_data -> the report's text, and for pdf a file beside the server."""
        wanted = payload.get("format")
        if wanted not in {"pdf", "text"}:
            raise Permanent(f"There is no report format {wanted!r}.", "use pdf or text.")
        analysis = dependency(context)
        figures = analysis["figures"]
        if not isinstance(figures, dict):
            raise Permanent("The analysis holds no figures.", "run analyze_data on it again")
        summary, endpoint = await ask(f"{SUMMARISE} trend {analysis['trend']}. {analysis['comment']}")
        text = "\n".join(
            [
                f"MARKET REPORT  {analysis['symbol']}  (source: {analysis['source']}, sample data)",
                f"Figures:  {figures_text(figures)}",
                f"Trend:    {analysis['trend']}",
                f"Analysis: {analysis['comment']}",
                f"Summary:  {summary}",
            ]
        )
        result: JsonObject = {"text": text, "endpoint": endpoint}
        if wanted == "pdf":
            result["file"] = str(await asyncio.to_thread(write_pdf, f"report-{context.task_id}.pdf", text))
        return result

    publisher.register_handler("fetch_data", fetch_data)
    publisher.register_handler("price_alert", price_alert)
    publisher.register_handler("analyze_data", analyze_data)
    publisher.register_handler("generate_report", generate_report)


def dependency(context: TaskContext) -> JsonObject:
    """The result of the one task this one depends on."""
    for result in context.results.values():
        if isinstance(result, dict):
            return result
    raise Permanent(f"{context.name} needs the result of another task.", "publish it with depends_on.")


def write_pdf(name: str, text: str) -> Path:
    """The text as a PDF in the directory the server was started in; a second attempt replaces the first one's file."""
    file = Path(name).absolute()
    file.write_bytes(text_to_pdf(text))
    return file


def figures_text(figures: dict[str, float] | dict[str, Json]) -> str:
    """`last close 65,123.45, average 12h ...`: the same words in the prompt and in the report."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,.2f}" for name, value in figures.items() if isinstance(value, int | float)
    )
