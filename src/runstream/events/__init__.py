"""The envelope that every event of a run travels in, its kinds, and their lasting form as JSON."""
