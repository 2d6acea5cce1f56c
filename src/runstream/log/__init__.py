"""The log of a run: written by one, read by any number, each at its own pace."""
