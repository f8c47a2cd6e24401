"""Tools for schedules: tasks published again and again."""

from server.tools.registry import Toolset

SCHEDULES = Toolset("schedules", "Publish tasks at set times.")
