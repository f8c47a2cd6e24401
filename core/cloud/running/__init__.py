"""How tasks run: claimed, carried out where they can be stopped, settled; and the upkeep around it."""
