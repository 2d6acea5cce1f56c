"""`runstream replay RUN`: a stored run as it was to see, in its own time, faster, or step by step."""

from __future__ import annotations

import asyncio
import sys

import click

from runstream.cli.screen import Screen
from runstream.cli.storage import STOPPED, finish, store_option, stored
from runstream.cli.watch import end_text, start_of

__all__ = ["command"]


@click.command("replay")
@click.argument("run_id", metavar="RUN")
@store_option
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="2 is twice as fast."
)
@click.option("--max-pause", "max_pause_s", type=click.FloatRange(0), metavar="SECONDS", help="No pause is longer.")
@click.option("--step", is_flag=True, help="Wait for a key after each text and each line; q ends.")
@click.option("--instant", is_flag=True, help="Without pauses.")
@click.option("--after", metavar="CURSOR", help="Begin after this event: a cursor or the number of an event.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON lines, and nothing else.")
def command(
    run_id: str,
    url: str,
    speed: float,
    max_pause_s: float | None,
    step: bool,
    instant: bool,
    after: str | None,
    as_json: bool,
) -> None:
    """Show a stored run again, with the pauses that it had. No model is asked and no tool is called.

    Of a run that goes on, what there is so far is shown. `runstream replay RUN --instant --json > run.jsonl` makes a
    file that a test can play: ReplayModel.from_log("run.jsonl").
    """
    if step and (instant or as_json):
        raise click.UsageError("--step waits for keys: it goes with neither --instant nor --json")
    screen = Screen(as_json, shows_input=True)
    pace = _Pace(None if instant or step else speed, max_pause_s)
    finish(_replay(run_id, url, after, screen, pace, step=step))


class _Pace:
    """The pauses between events."""

    def __init__(self, speed: float | None, max_pause_s: float | None) -> None:
        self._speed = speed
        self._max_pause_s = max_pause_s
        self._recorded_at: float | None = None
        self._due_at = 0.0

    async def wait(self, recorded_at: float) -> None:
        """Return when it is time for an event that was recorded then."""
        from runstream.clock import system_clock

        if self._speed is None:
            return
        if self._recorded_at is None:
            self._due_at = system_clock.now()
        else:
            pause_s = max(recorded_at - self._recorded_at, 0.0) / self._speed
            self._due_at += pause_s if self._max_pause_s is None else min(pause_s, self._max_pause_s)
        self._recorded_at = recorded_at
        delay_s = self._due_at - system_clock.now()
        if delay_s > 0:
            await system_clock.sleep(delay_s)


async def _replay(run_id: str, url: str, after: str | None, screen: Screen, pace: _Pace, *, step: bool) -> int:
    from runstream.events.event import RUN_END
    from runstream.events.segment import decode_segment

    async with stored(url) as store:
        record = await store.find(run_id)
        seq = start_of(record, after)
        screen.line("run", f"{run_id} of {record.agent}, {record.status}")
        ended = False
        try:
            while seq < record.last_seq:
                page = await store.read(run_id, seq)
                # All at once: decoding loads the model's types, which must not make a pause of its own.
                for event in [each for segment in page.segments for each in decode_segment(segment.body, run_id)]:
                    if event.seq <= seq:
                        continue
                    await pace.wait(event.at)
                    seq = event.seq
                    is_line = screen.show(event)
                    if event.kind == RUN_END:
                        ended = True
                        screen.line("end", end_text(event))
                    elif step and is_line and not await _next_step():
                        return 0
        except asyncio.CancelledError:
            return STOPPED
        finally:
            screen.close()
    if not ended:
        screen.note(f"so far: {seq} events; to follow the run: runstream watch {run_id}")
    return 0


async def _next_step() -> bool:
    """Wait for a key; False for q. Where no keys can come, there is nothing to wait for."""
    if not sys.stdin.isatty():
        return True
    key = await asyncio.get_running_loop().run_in_executor(None, _key)
    if key == "\x03":
        raise asyncio.CancelledError
    return key not in ("q", "Q", "\x04")


def _key() -> str:
    """The next key. Ctrl-C and Ctrl-D as characters: an exception of theirs is not for a thread."""
    try:
        return click.getchar()
    except KeyboardInterrupt:
        return "\x03"
    except EOFError:
        return "\x04"
