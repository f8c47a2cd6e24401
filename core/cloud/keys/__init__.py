"""Where API keys given to this installation are kept."""
