"""Declarations: agents, tools, handoffs, outputs, settings, items, and the interface of a model. No I/O, no running."""
