"""What the publisher and the scheduler decide before and beside the store. Pure, but for reading files."""
