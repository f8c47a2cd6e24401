"""The tools, one noun a module, grouped in toolsets."""

from server.tools import tasks, task_graph, control, workers, endpoints, schedules, legacy  # noqa: I001 - the order clients see
from server.tools.tool_registry import Toolset


def all_toolsets() -> list[Toolset]:
    """Every toolset, in the order clients see them."""
    return [tasks.TASKS, workers.WORKERS, endpoints.ENDPOINTS, schedules.SCHEDULES, legacy.LEGACY]


__all__ = ["all_toolsets", "control", "task_graph"]
