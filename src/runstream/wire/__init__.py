"""Wire formats as pure objects: bytes in, values out. Knows nothing of events, runs or I/O."""
