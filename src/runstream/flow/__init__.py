"""Operators over streams, one a file: before the log (reliability), and after it, per reader (pacing)."""
