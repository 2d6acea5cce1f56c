"""What the server speaks: one pure file a protocol, from the events of a run to bytes. No I/O, no clock, no HTTP."""
