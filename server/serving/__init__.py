"""How the server speaks and lives: stdio and HTTP, who may talk to it, its start and its end."""
