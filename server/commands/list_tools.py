"""`heablcoin-cloud tools`: what clients see, for people."""

import json
import shutil
import textwrap
from typing import Any

from server.app import selected_tools
from server.settings import load_settings
from server.tools import all_toolsets
from server.tools.tool_registry import ToolSpec


def shown_to_models(spec: ToolSpec) -> dict[str, Any]:
    """What a model is shown of a tool."""
    return {"name": spec.name, "description": spec.description, "inputSchema": spec.arguments.schema}


def main(*, as_json: bool) -> int:
    """Print the tools that the present settings switch on."""
    settings = load_settings()
    specs = selected_tools(settings)
    if as_json:
        print(json.dumps([shown_to_models(spec) for spec in specs], indent=2, ensure_ascii=False))  # noqa: T201
        return 0
    width = min(shutil.get_terminal_size((100, 20)).columns, 120)
    for toolset in all_toolsets():
        chosen = [spec for spec in specs if spec.toolset == toolset.name]
        state = "" if chosen else "  (off)"
        print(f"{toolset.name}: {toolset.summary}{state}")  # noqa: T201
        for spec in chosen:
            arguments = ", ".join(spec.arguments.schema["properties"])  # type: ignore[arg-type]
            mark = "" if spec.hints.read_only else " *"
            print(f"  {spec.name}({arguments}){mark}")  # noqa: T201
            summary = spec.description.partition("\n\n")[0]
            print(textwrap.fill(summary, width, initial_indent="      ", subsequent_indent="      "))  # noqa: T201
    print("* changes something; HEABLCOIN_CLOUD_READ_ONLY=true leaves those out, HEABLCOIN_CLOUD_TOOLSETS chooses.")  # noqa: T201
    return 0
