"""Where tasks, endpoints and schedules live. `base` is the contract; the rest of this package is SQLite."""
