"""What a client reads: records, their text, errors, schemas, and what it waits for."""
