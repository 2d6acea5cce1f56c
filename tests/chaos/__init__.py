"""Crash tests of the durable log: workers, readers and servers are killed and stopped, and laws are checked after it.

`make chaos` runs them and prints what it counted; `tests/system/test_chaos.py` is the short form.
"""
