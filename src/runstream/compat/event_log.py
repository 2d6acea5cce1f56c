"""The SDK's logger, through which our records pass once `install_as_agents()` was called."""

from __future__ import annotations

import logging
import sys

from runstream.compat.modules import LOGGER

__all__ = ["enable_verbose_stdout_logging", "logger"]

logger = logging.getLogger(LOGGER)


def enable_verbose_stdout_logging() -> None:
    """Print what this package logs, down to DEBUG. Of a run's course it logs little: read the run's events for that."""
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.StreamHandler(sys.stdout))
