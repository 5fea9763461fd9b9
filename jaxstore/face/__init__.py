"""What a person at a terminal sees: the demo, what a path holds, and pictures of it."""
