"""The API pool, the durable task queue and the scheduler."""
