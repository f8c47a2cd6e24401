"""The tools, one noun a module, grouped in toolsets."""

from server.tools.registry import Toolset


def all_toolsets() -> list[Toolset]:
    """Every toolset, in the order clients see them."""
    from server.tools import control, graph, tasks  # noqa: F401 - each adds its tools to a toolset
    from server.tools.endpoints import ENDPOINTS
    from server.tools.legacy import LEGACY
    from server.tools.schedules import SCHEDULES
    from server.tools.workers import WORKERS

    return [tasks.TASKS, WORKERS, ENDPOINTS, SCHEDULES, LEGACY]
