"""What each run of the soak is to do and to suffer. Pure: the same seed and number give the same plan."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["READERS", "Plan", "plan_of"]

READERS = (
    "waiting",
    "streaming",
    "events",
    "breaking",
    "late",
    "slow",
    "smoothed",
    "merged",
    "several",
    "impatient",
    "piped",
    "raced",
    "gathered",
    "nobody",
)
_CANCELS = ("immediate", "after_turn", "reader", "store")
_TOOLS = ("look", "think", "fail", "watch")
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "http_error", "status": 429, "retry_after_s": 0.02},
    {"kind": "http_error", "status": 500},
    {"kind": "http_error", "status": 400},
    {"kind": "reset"},
    {"kind": "silence"},
    {"kind": "silence", "pings_every_s": 0.05},
    {"kind": "broken_frame"},
    {"kind": "truncated_body"},
    {"kind": "no_end"},
    {"kind": "slow_first_byte", "for_s": 0.3},
    {"kind": "error_event"},
    {"kind": "failed"},
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    number: int
    task: str
    """The question: what the model is to say, and what goes wrong, as `soak/service.py` reads it."""
    reader: str
    stops_after: int
    """Readers that break do so after so many events."""
    cancel: str | None
    cancel_after_s: float
    api: str
    is_durable: bool
    detaches: bool
    max_retries: int
    on_broken_stream: Any
    fallback: tuple[str, ...]
    has_limits: bool
    has_breaker: bool
    has_load_limits: bool
    has_budget: bool

    def __str__(self) -> str:
        return f"run {self.number} ({self.reader}, cancel {self.cancel}, {self.api}, durable {self.is_durable})"


def plan_of(seed: int, number: int) -> Plan:
    """The plan of that run."""
    dice = random.Random(f"{seed}-{number}")
    return Plan(
        number=number,
        task=_task(dice, f"t{number}", may_nest=True),
        reader=dice.choice(READERS),
        stops_after=dice.randrange(1, 40),
        cancel=dice.choice(_CANCELS) if dice.random() < 0.3 else None,
        cancel_after_s=dice.choice((0.0, dice.uniform(0.0, 0.05), dice.uniform(0.0, 0.6))),
        api=dice.choice(("responses", "responses", "chat")),
        is_durable=dice.random() < 0.25,
        detaches=dice.random() < 0.2,
        max_retries=dice.randrange(3),
        on_broken_stream=dice.choice(("fail", "restart", "restart_after_tools", "continue")),
        fallback=dice.choice(((), ("spare",), ("plain",), ("plain", "spare"))),
        has_limits=dice.random() < 0.6,
        has_breaker=dice.random() < 0.4,
        has_load_limits=dice.random() < 0.3,
        has_budget=dice.random() < 0.3,
    )


def _task(dice: random.Random, name: str, *, may_nest: bool) -> str:
    steps: list[list[Any]] = []
    for index in range(dice.choice((0, 0, 1, 1, 2, 3))):
        if may_nest and dice.random() < 0.15:
            inner = _task(dice, f"{name}n{index}", may_nest=False)
            steps.append([["ask_carl", {"input": inner}], ["look", {"amount": 1}]])
        elif may_nest and dice.random() < 0.2:
            steps.append([["handoff", {}]])
        else:
            steps.append([[dice.choice(_TOOLS), {"amount": place}] for place in range(dice.randrange(1, 4))])
    faults = [_fault(dice) if dice.random() < 0.4 else None for _ in range(dice.randrange(6))]
    return json.dumps({"id": name, "steps": steps, "faults": faults, "every_s": dice.choice((0.0, 0.0, 0.002, 0.01))})


def _fault(dice: random.Random) -> dict[str, Any]:
    fault = dict(dice.choice(_FAULTS))
    if fault["kind"] not in ("http_error", "slow_first_byte"):
        fault["after"] = dice.choice(("start", 1, 4, 9, "end"))
    return fault
