"""What tasks do: the registry, the built-in handlers, the user's own files."""
