"""Everything a script can do without MCP: the API pool, the task queue, the scheduler."""
