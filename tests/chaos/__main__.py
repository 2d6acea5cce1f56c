"""`python -m chaos [store ...] [--kills N] [--stops N] [--seed N]`: the crash tests, with what they counted."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from chaos.harm import kills, stops
from chaos.processes import Plan
from chaos.trial import Report, Trial
from redis_server import RedisServer, install_server

_TRIALS = ("kills", "stops", "unfenced")


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("stores", nargs="*", default=["sqlite", "redis"], help="sqlite, redis")
    parser.add_argument("--trials", nargs="+", default=_TRIALS, choices=_TRIALS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", action="store_true", help="print the reports as JSON lines")
    parser.add_argument("--keep", type=Path, help="keep the files of the trials in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_all(options, options.keep or Path(folder)))


async def _all(options: argparse.Namespace, folder: Path) -> int:
    failed = 0
    print(f"seed {options.seed}", flush=True)
    for store in options.stores:
        server = None
        url = f"sqlite:///{folder}/{{name}}.db"
        if store == "redis":
            program = install_server()
            if program is None:
                print("NO REDIS: there is no redis-server, and none can be installed")
                return 1
            server = RedisServer(program, folder / "redis")
            server.start()
            url = f"{server.url}?prefix={{name}}"
        try:
            for name in options.trials:
                plan = Plan(url.format(name=name), folder / f"{store}-{name}", unfenced=name == "unfenced")
                async with Trial(plan, seed=options.seed) as trial:
                    if name == "kills":
                        await kills(trial, options.kills)
                    else:
                        await stops(trial, options.stops)
                    report = await trial.finish(f"{store} {name}", limit_s=5.0 if plan.unfenced else 60.0)
                failed += _tell(report, plan, expects_harm=plan.unfenced, as_json=options.json)
        finally:
            if server is not None:
                server.kill()
    return 1 if failed else 0


def _tell(report: Report, plan: Plan, *, expects_harm: bool, as_json: bool) -> bool:
    """Print the report; returns whether it is bad."""
    limit_s = plan.lease_s + 1.0
    report.counts["takeovers"] = len(report.takeovers_s)
    report.counts["late takeovers"] = sum(took_s > limit_s for took_s in report.takeovers_s)
    if as_json:
        worst = max(report.takeovers_s, default=0.0)
        record = {"name": report.name, **report.counts, "broken": report.broken, "takeover_s": worst}
        print(json.dumps(record), flush=True)
    else:
        print(report.line(), "(as it must be without fencing)" if expects_harm else "", flush=True)
        for fault in report.broken[: 3 if expects_harm else 40]:
            print(f"  {fault[:300]}")
        for note in report.notes[: 0 if expects_harm else 10]:
            print(f"  ({note})")
    return not report.broken if expects_harm else bool(report.broken)


if __name__ == "__main__":
    sys.exit(main())
