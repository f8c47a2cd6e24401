"""Extensions of the protocol that this server offers to clients that declare them."""

from server.extensions.tasks import TasksExtension

__all__ = ["TasksExtension"]
