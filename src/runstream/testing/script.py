"""A script, and how far it has been played.

Owns `Script` (the turns, as Python or as JSON) and `Playback` (which of them are used). Must not know HTTP or models.

Which turn answers a request: the first one that still has uses left and whose `when` accepts the request. If there is
none and the script repeats, all turns become fresh and it looks again; then the default answers, if there is one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from runstream.testing.faults import Fault, Raise
from runstream.testing.script_data import as_object, fault_from_data, turn_from_data
from runstream.testing.script_errors import InvalidModelStep, UnconsumedModelSteps, UnexpectedModelCall, located
from runstream.testing.steps import Part, Turn, coerce_turn

if TYPE_CHECKING:
    from runstream.testing.request import ScriptRequest

__all__ = ["Chooser", "Playback", "Script", "Step", "StepLike", "coerce_step"]

T = TypeVar("T")

Chooser: TypeAlias = Callable[[Any], Any]
"""A function of the request (or a coroutine function) that returns the step to play."""
Step: TypeAlias = Turn | Chooser
StepLike: TypeAlias = Part | Fault | Raise | Turn | Sequence[Part] | Mapping[str, Any] | Chooser
"""What may stand in a script: a mapping is read as the JSON form of a turn."""


def coerce_step(step: object) -> Step:
    """The step that something written short stands for. Raises InvalidModelStep for what is none."""
    if isinstance(step, Mapping):
        return turn_from_data(cast("object", step))
    if not isinstance(step, Turn) and callable(step):
        return cast("Chooser", step)
    return coerce_turn(step)


@dataclass(frozen=True, slots=True)
class Script:
    """What a scripted model says, turn by turn. It holds no state: any number of players may share it."""

    steps: Iterable[StepLike] = ()
    repeat: bool = False
    """Begin again when all turns are used."""
    default: StepLike | None = None
    """Answers whatever no turn answers."""
    fault: Fault | None = None
    """Strikes whatever the turn is, without using it up: a client that asks again gets the turn whole."""
    fault_times: int | None = None
    """How many requests `fault` strikes; None: all."""

    def __post_init__(self) -> None:
        given: Any = self.steps
        # A single step is taken for a script of one.
        is_several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
        coerced: list[Step] = []
        for index, step in enumerate(cast("Iterable[object]", given if is_several else [given])):
            try:
                coerced.append(coerce_step(step))
            except InvalidModelStep as error:
                raise located(f"step {index + 1}", error, index) from error
        object.__setattr__(self, "steps", tuple(coerced))
        if self.default is not None:
            try:
                object.__setattr__(self, "default", coerce_step(self.default))
            except InvalidModelStep as error:
                raise located("default", error) from error
        if not isinstance(self.repeat, bool):
            raise InvalidModelStep(f"repeat: must be true or false, not {self.repeat!r}")
        if self.fault is not None and not isinstance(self.fault, Fault):
            raise InvalidModelStep(f"fault: must be a Fault, not {self.fault!r}")
        times = self.fault_times
        if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
            raise InvalidModelStep(f"fault_times: must be a number, 1 or more, not {times!r}")

    @classmethod
    def of(cls, script: Script | StepLike | Iterable[StepLike]) -> Script:
        """`script` itself, or the script of these steps."""
        return script if isinstance(script, Script) else cls(cast("Iterable[StepLike]", script))

    @classmethod
    def from_data(cls, data: object) -> Script:
        """The script that decoded JSON describes: a list of turns, or an object with `turns`, `repeat`, `default`,
        `fault` and `fault_times`. Raises InvalidModelStep, which names the turn and the field."""
        fields: dict[str, Any] = {"turns": data} if isinstance(data, list) else dict(as_object(data, "a script"))
        known = ("turns", "repeat", "default", "fault", "fault_times")
        for name in fields:
            if name not in known:
                raise InvalidModelStep(f"a script has no field `{name}`; it has {', '.join(known)}")
        turns: object = fields.pop("turns", [])
        if not isinstance(turns, list):
            raise InvalidModelStep(f"`turns` must be a list, not {turns!r}")
        steps: list[Turn] = []
        for index, turn in enumerate(cast("list[object]", turns)):
            try:
                steps.append(turn_from_data(turn))
            except InvalidModelStep as error:
                raise located(f"turn {index + 1}", error, index) from error
        if not steps and fields.get("default") is None:
            raise InvalidModelStep("a script needs `turns` or a `default`")
        for name, read in (("default", turn_from_data), ("fault", fault_from_data)):
            if fields.get(name) is not None:
                try:
                    fields[name] = read(fields[name])
                except InvalidModelStep as error:
                    raise located(name, error) from error
        return cls(steps, **fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Script:
        """The script that JSON text describes; see `from_data`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InvalidModelStep(f"the script is not JSON: {error}") from error
        return cls.from_data(data)

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """The script in a JSON file. Raises InvalidModelStep with the file's name, OSError where it cannot be read."""
        try:
            return cls.from_json(Path(path).read_bytes())
        except InvalidModelStep as error:
            raise located(str(path), error, error.input_index) from error

    def play(self) -> Playback[Turn]:
        """A new playback, from the first turn on."""
        return Playback(
            cast("tuple[Step, ...]", self.steps),
            lambda step: cast("Turn", coerce_step(step)),
            repeat=self.repeat,
            default=cast("Step | None", self.default),
            fault=self.fault,
            fault_times=self.fault_times,
        )


class _Slot(Generic[T]):
    __slots__ = ("place", "step", "used")

    def __init__(self, step: T | Chooser, place: int) -> None:
        self.step = step
        self.place = place
        self.used = 0

    @property
    def times(self) -> int | None:
        return self.step.times if isinstance(self.step, Turn) else 1

    def is_free(self) -> bool:
        return self.times is None or self.used < self.times

    def accepts(self, request: ScriptRequest) -> bool:
        when = self.step.when if isinstance(self.step, Turn) else None
        return when is None or when(request)

    def __str__(self) -> str:
        is_function = callable(self.step) and not isinstance(self.step, Turn)
        what = f"function {getattr(self.step, '__name__', self.step)!s}" if is_function else str(self.step)
        return f"turn {self.place} ({what})"


class Playback(Generic[T]):
    """One playing of a script. `answer` may be called by several tasks at once: each use is taken once."""

    def __init__(
        self,
        steps: Sequence[T | Chooser],
        coerce: Callable[[object], T | Chooser],
        *,
        repeat: bool = False,
        default: T | Chooser | None = None,
        fault: Fault | None = None,
        fault_times: int | None = None,
    ) -> None:
        self._coerce = coerce
        self._slots = [_Slot[T](step, place) for place, step in enumerate(steps, 1)]
        self._repeat = repeat
        self._default = default
        self._fault = fault
        self._fault_left = fault_times
        self._has_begun_again = False

    def add(self, step: object) -> None:
        """Append a step. Raises InvalidModelStep for what is none."""
        self._slots.append(_Slot[T](self._coerce(step), len(self._slots) + 1))

    @property
    def left_over(self) -> list[str]:
        """The turns that have not been used as often as they must be, each in a few words."""
        if self._has_begun_again:
            return []
        return [str(slot) for slot in self._slots if slot.times is not None and slot.is_free()]

    def assert_complete(self) -> None:
        """Raises UnconsumedModelSteps if a turn is left over."""
        left = self.left_over
        if left:
            raise UnconsumedModelSteps(
                f"{len(left)} of {len(self._slots)} scripted turns were not used: {', '.join(left)}",
                remaining_steps=len(left),
            )

    async def answer(self, request: ScriptRequest) -> T:
        """The turn that answers the request. Raises UnexpectedModelCall if the script has none for it, and
        InvalidModelStep if a function of the script returns what is no step."""
        slot = self._take(request)
        if slot is None and self._default is None:
            raise self._unexpected(request)
        step: Any = self._default if slot is None else slot.step
        is_struck = self._fault is not None and self._fault_left != 0
        if slot is not None and not is_struck:
            slot.used += 1
        if is_struck and self._fault_left is not None:
            self._fault_left -= 1
        while callable(step) and not isinstance(step, Turn):
            chosen = step(request)
            step = self._coerce(await chosen if inspect.isawaitable(chosen) else chosen)
        if is_struck and isinstance(step, Turn):
            step = replace(step, fault=self._fault)
        return cast("T", step)

    def _take(self, request: ScriptRequest) -> _Slot[T] | None:
        found = self._find(request)
        if found is None and self._repeat and any(slot.used for slot in self._slots):
            self._has_begun_again = True
            for slot in self._slots:
                slot.used = 0
            found = self._find(request)
        return found

    def _find(self, request: ScriptRequest) -> _Slot[T] | None:
        return next((slot for slot in self._slots if slot.is_free() and slot.accepts(request)), None)

    def _unexpected(self, request: ScriptRequest) -> UnexpectedModelCall:
        left = self.left_over
        total = len(self._slots)
        if left:
            why = f"none of the turns that are left accepts it: {', '.join(left)}"
        else:
            why = f"the script has {total} turn{'' if total == 1 else 's'}, all used"
        return UnexpectedModelCall(
            f"Unexpected model call {request.number}: {why}. The call's last input is {request.describe_last()}. "
            "Add a turn, or give the script a default.",
            call=request,
            call_index=request.number - 1,
        )
