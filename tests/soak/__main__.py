"""`python -m soak [--runs N] [--seed N] [--first N] [--concurrency N]`: the soak, with what it counted."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from soak.trial import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="the number of the first run, to repeat one of them")
    parser.add_argument("--concurrency", type=int, default=24)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = soak(
            options.runs,
            seed=options.seed,
            concurrency=options.concurrency,
            folder=Path(folder),
            first=options.first,
        )
    for line in report.lines():
        print(line)
    for fault in report.broken[:40]:
        print(f"  {fault[:400]}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
