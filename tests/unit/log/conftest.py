"""Assertions of the laws of stores say what was compared."""

import pytest

pytest.register_assert_rewrite(
    *(f"runstream.testing.store_{name}" for name in ("trial", "log_laws", "reader_laws", "claim_laws", "keeping_laws"))
)
