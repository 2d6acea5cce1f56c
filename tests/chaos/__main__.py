"""`python -m chaos [store ...] [--kills N] [--stops N] [--seed N]`: the crash tests, with what they counted."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from chaos.harm import ends, failovers, kills, odd_runs, restarts, stops
from chaos.processes import Plan
from chaos.trial import Report, Trial
from redis_server import NO_REDIS, Proxy, RedisServer, install_server, wait_until

_TRIALS = {
    "kills": "workers and readers are killed",
    "stops": "workers are stopped, lose their runs, and are woken",
    "unfenced": "the same with a store that lets anybody append: the checks must find it",
    "ends": "workers are told to end by SIGTERM, and hand over what they do not end in time",
    "odd": "runs that kill their worker, block its event loop, or hold it up for ever",
    "restarts": "redis-server is killed and started again",
    "failovers": "a replica that lags takes the primary's place",
    "failovers-wait": "the same, where a flush waits for the replica",
}
_REDIS_ONLY = ("restarts", "failovers", "failovers-wait")


def main() -> int:
    told = "; ".join(f"{name}: {what}" for name, what in _TRIALS.items())
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, epilog=told)
    parser.add_argument("stores", nargs="*", default=["sqlite", "redis"], help="sqlite, redis")
    parser.add_argument("--trials", nargs="+", default=list(_TRIALS), choices=_TRIALS, metavar="TRIAL")
    parser.add_argument("--kills", type=int, default=100, help="of workers")
    parser.add_argument("--stops", type=int, default=20, help="of workers, with and without fencing")
    parser.add_argument("--ends", type=int, default=20, help="of workers, by SIGTERM")
    parser.add_argument("--odd", type=int, default=1, help="runs of each odd kind")
    parser.add_argument("--outages", type=int, default=10, help="of servers: restarts, and failovers of each kind")
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
        for trial in options.trials:
            if store == "redis" or trial not in _REDIS_ONLY:
                name = f"{store} {trial}"
                report = await _one(name, store, trial, options, folder / name.replace(" ", "-"))
                failed += _tell(report, expects_harm=trial == "unfenced", as_json=options.json)
    return 1 if failed else 0


async def _one(name: str, store: str, trial_name: str, options: argparse.Namespace, folder: Path) -> Report:
    await asyncio.to_thread(folder.mkdir, parents=True)
    unfenced = trial_name == "unfenced"
    servers: list[RedisServer] = []
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{folder}/runs.db"
        proxy = None
        if store == "redis":
            servers = await asyncio.to_thread(_servers, folder, 2 if "failovers" in trial_name else 1)
            for server in servers:
                stack.callback(server.kill)
            port = servers[0].port
            if len(servers) > 1:
                proxy = await stack.enter_async_context(Proxy(port))
                port = proxy.port
            url = f"redis://127.0.0.1:{port}" + ("?wait_replicas=1" if trial_name == "failovers-wait" else "")
        plan = Plan(url, folder, unfenced=unfenced)
        if trial_name == "odd":
            plan = Plan(url, folder, max_deliveries=3, time_limit_s=5.0)
        trial = await stack.enter_async_context(Trial(plan, seed=options.seed, forgets=trial_name == "failovers"))
        if trial_name == "kills":
            await kills(trial, options.kills)
        elif trial_name == "ends":
            await ends(trial, options.ends)
        elif trial_name == "odd":
            await odd_runs(trial, options.odd)
        elif trial_name == "restarts":
            await restarts(trial, options.outages, servers[0])
        elif proxy is not None:
            await failovers(trial, options.outages, proxy, servers)
        else:
            await stops(trial, options.stops)
        return await trial.finish(name, limit_s=2.0 if unfenced else 60.0)


def _servers(folder: Path, count: int) -> list[RedisServer]:
    program = install_server()
    if program is None:
        raise SystemExit(NO_REDIS)
    servers = [
        RedisServer(program, folder / f"redis-{number}", "--repl-diskless-sync-delay", "0") for number in range(count)
    ]
    for server in servers:
        server.start()
    for server in servers[1:]:
        server.command("REPLICAOF", "127.0.0.1", servers[0].port)
        wait_until(lambda server=server: "master_link_status:up" in server.command("INFO", "replication"))
    return servers


def _tell(report: Report, *, expects_harm: bool, as_json: bool) -> bool:
    """Print the report; returns whether it is bad."""
    report.counts["takeovers"] = len(report.takeovers_s)
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
