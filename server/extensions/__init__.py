"""Extensions of the protocol that this server offers to clients that declare them."""

from collections.abc import Collection

from server.context import App
from server.extensions.listen import TaskListenHandler
from server.extensions.offers import deferred_tools
from server.extensions.tasks_extension import TasksExtension

__all__ = ["TaskListenHandler", "TasksExtension", "deferred_tools", "tasks_extension"]


def tasks_extension(app: App, offered: Collection[str]) -> TasksExtension:
    """The Tasks extension over `app`'s queue, for those tools that are `offered`."""
    return TasksExtension(app, [tool for tool in deferred_tools(app) if tool.name in offered])
