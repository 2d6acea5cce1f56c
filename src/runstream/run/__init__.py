"""The run: one loop that appends events to one log, and the ways to start it and to read it."""
