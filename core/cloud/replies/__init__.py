"""What servers say beside an answer: refusals, waits, token counts. Read from bodies by providers, from anyone's exceptions by the pool. Pure."""
