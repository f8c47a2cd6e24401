"""The basic tools of version 1, off unless asked for."""

from server.tools.registry import Toolset

LEGACY = Toolset("legacy", "The basic tools of version 1.")
