"""One courtesy to Python's garbage collector, paid for once per process.

The first run imports the `openai` package: a hundred thousand objects that live for ever. To the collector they are
young, so it walks over all of them, twice, just when the first runs are busy; each walk costs a tenth of a second, as
much as thousands of deltas. See docs/decisions/0007.
"""

from __future__ import annotations

import gc

__all__ = ["promote_imports"]


class _State:
    is_done = False


def promote_imports() -> None:
    """Move every object that is alive now to the oldest generation, without walking over them. Once per process.

    Nothing is exempted from collection: what becomes garbage is found by the next full collection. Does nothing where
    the program has switched the collector off, or has frozen objects itself.
    """
    if _State.is_done:
        return
    _State.is_done = True
    if gc.isenabled() and hasattr(gc, "freeze") and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
