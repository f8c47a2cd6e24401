"""`python -m server.commands.docs`: write docs/tools.md and docs/settings.md from the registry and the settings."""

import sys
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from server.answers.schema import result_schema
from server.commands.list_tools import shown_to_models
from server.prompts import SENTENCES
from server.resources import ENDPOINTS_URI, QUEUE_URI
from server.settings import PREFIX, Settings
from server.tools import all_toolsets
from server.tools.tool_registry import ToolSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"
MADE = "<!-- Made by `make docs` from the code; do not edit. -->"


def main() -> int:
    """Write every generated page."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"docs/{name}", file=sys.stderr)  # noqa: T201 - a command's output
    return 0


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {"tools.md": tools_page(), "settings.md": settings_page()}


def tools_page() -> str:
    """Every tool, resource and prompt."""
    lines = [MADE, "", "# Tools, resources and prompts", ""]
    lines += [
        f"Every toolset but `legacy` is on; `{PREFIX}TOOLSETS` chooses, `{PREFIX}READ_ONLY=true` leaves out what changes something.",
        "Arguments may also come as hosts send them: numbers as text, lists and objects as JSON text.",
        "",
        "| tool | toolset | reads only | destructive | idempotent | reaches out |",
        "|---|---|---|---|---|---|",
    ]
    specs = [spec for toolset in all_toolsets() for spec in toolset.specs]
    for spec in specs:
        hints = (spec.hints.read_only, spec.hints.destructive, spec.hints.idempotent, spec.hints.open_world)
        marks = " | ".join("yes" if hint else "" for hint in hints)
        lines.append(f"| [`{spec.name}`](#{spec.name}) | {spec.toolset} | {marks} |")
    for toolset in all_toolsets():
        lines += ["", f"## {toolset.name}", "", toolset.summary]
        for spec in toolset.specs:
            lines += ["", *_tool(spec)]
    lines += ["", "## Resources", ""]
    lines += [
        "| address | content |",
        "|---|---|",
        "| `task://{task_id}` | one task in full, with its attempts |",
        f"| `{QUEUE_URI}` | tasks by status and priority |",
        f"| `{ENDPOINTS_URI}` | the pool's endpoints in figures |",
        "",
        "Clients that subscribe (or, since 2026-07-28, listen) are told when one changes.",
        "",
        "## Prompts",
        "",
        "| English | Chinese | leads to |",
        "|---|---|---|",
    ]
    for sentence in SENTENCES:
        tool = sentence.call.partition("(")[0]
        lines.append(f"| `{sentence.name}` | `{sentence.name}_zh` | [`{tool}`](#{tool}) |")
    return "\n".join(lines) + "\n"


def _tool(spec: ToolSpec) -> list[str]:
    schema: Any = shown_to_models(spec)["inputSchema"]
    lines = [f"### {spec.name}", "", spec.description, ""]
    if schema["properties"]:
        lines += ["| argument | type | default | meaning |", "|---|---|---|---|"]
        for name, part in schema["properties"].items():
            default = _code(part["default"]) if "default" in part else "required"
            lines.append(f"| `{name}` | {_type(part)} | {default} | {_cell(part['description'])} |")
    else:
        lines.append("No arguments.")
    fields: Any = result_schema(spec.record)["properties"]
    lines += ["", f"Answers with: {', '.join(f'`{name}`' for name in fields)}."]
    return lines


def _type(part: dict[str, Any]) -> str:
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    if "minimum" in part:
        return f"{part['type']}, {part['minimum']:,} to {part['maximum']:,}"
    return str(part["type"])


def settings_page() -> str:
    """Every setting."""
    lines = [
        MADE,
        "",
        "# Settings",
        "",
        "Environment variables, read at the start. An empty value, or a placeholder that a host left unfilled",
        "(`${user_config.x}`), counts as unset. `heablcoin-cloud doctor` names those that are set.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is PydanticUndefined or name == "token" else _default(field.default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value in ("", (), None):
        return ""
    if isinstance(value, tuple):
        return _code(",".join(value))
    return _code(str(value).lower() if isinstance(value, bool) else value)


def _code(value: Any) -> str:
    if isinstance(value, float):
        return f"`{value:g}`"
    return "empty" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
