"""The commands about stored runs, as somebody types them: what they print, with which status, and what they leave."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runstream import Agent, RunConfig, Runner, open_store
from runstream.cli import _cli
from runstream.events.codec import decode
from runstream.testing import ScriptedModel

pytestmark = pytest.mark.system

STORE = "sqlite:///runs.db"
DESK = """
    import asyncio

    from runstream import Agent, function_tool
    from runstream.testing import ScriptedModel, ToolCall, Turn, When

    NOT_AN_AGENT = 7


    @function_tool(needs_approval=True)
    def refund(number: int) -> str:
        "Pays back."
        return f"refunded {number}"


    @function_tool
    async def sleep() -> str:
        "Sleeps."
        await asyncio.sleep(60)
        return "slept"


    desk = Agent(name="Desk", model=ScriptedModel(["Hello there."], repeat=True))
    def calls(tool: str, **arguments: int) -> ScriptedModel:
        call = Turn([ToolCall(tool, arguments)], when=When(after_tool=False))
        return ScriptedModel([call, Turn(["Done."], when=When(after_tool=True))], repeat=True)


    slow = Agent(name="Slow", model=calls("sleep"), tools=[sleep])
    cashier = Agent(name="Cashier", model=calls("refund", number=7), tools=[refund])
    everybody = [desk, slow, cashier]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of agents; RUNSTREAM_STORE names a file in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNSTREAM_STORE", STORE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "desk_of_test.py").write_text(textwrap.dedent(DESK))
    yield tmp_path
    sys.modules.pop("desk_of_test", None)


def run(*arguments: str, given: str | None = None) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    result = CliRunner().invoke(_cli, arguments, input=given, prog_name="runstream")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def ok(*arguments: str, **options: Any) -> str:
    status, output, errors = run(*arguments, **options)
    assert (status, errors) == (0, ""), (output, errors)
    return output


def completed_run(text: str = "Hello there.", **config: Any) -> str:
    """The id of a run that was carried out here."""

    async def carry_out() -> str:
        agent = Agent(name="Desk", model=ScriptedModel([text]))
        result = Runner.run_streamed(agent, "Hello?", run_config=RunConfig(store=STORE, **config))
        await result.wait()
        return result.run_id

    return asyncio.run(carry_out())


def record_of(run_id: str) -> Any:
    async def find() -> Any:
        store = open_store(STORE)
        await store.open()
        try:
            return await store.find(run_id)
        finally:
            await store.aclose()

    return asyncio.run(find())


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} after 20 s")


class WorkerProcess:
    """`runstream worker` as a process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runstream.cli", "worker", *arguments],
            env={**os.environ, "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=20)
        return self.process.returncode, output, errors


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    workers: list[WorkerProcess] = []

    def start(*arguments: str) -> WorkerProcess:
        workers.append(WorkerProcess(*arguments))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.communicate()


def test_a_run_goes_from_submit_to_watch(start_worker: Callable[..., WorkerProcess]) -> None:
    """Its id is all that is printed; a worker carries it out, and says so; it can be watched meanwhile and after."""
    run_id = ok("submit", "desk_of_test:desk", "Hello?", "--owner", "ann").strip()
    assert "queued" in ok("runs")
    worker = start_worker("desk_of_test:everybody", "--name", "w1", "--concurrency", "2")
    shown = ok("watch", run_id)
    lines = [line for line in shown.splitlines() if line]
    assert lines[0].startswith(f"run      {run_id} of Desk, ")
    assert lines[1:5] == ["user     Hello?", "agent    Desk", "Hello there.", "end      completed"]
    assert lines[5].startswith("figures  ")
    status, output, errors = worker.stop()
    assert (status, errors) == (0, "")
    told = [line.partition(" ")[2] for line in output.splitlines()]
    assert told[0].startswith("worker w1: runs of ")
    assert told[1] == f"begun {run_id} (Desk, queue default, delivery 1)"
    assert told[2].startswith(f"ended {run_id} as completed after ")
    assert told[-1] == "worker w1 has stopped"


def test_the_first_signal_waits_and_the_second_hands_over(start_worker: Callable[..., WorkerProcess]) -> None:
    """A run in the middle of a tool is queued again afterwards, and the delivery does not count."""
    run_id = ok("submit", "Slow", "Sleep.").strip()
    worker = start_worker("desk_of_test:slow", "--drain", "1h")
    wait_for(lambda: record_of(run_id).last_seq > 3, "tool call")
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.stdout is not None
    lines: list[str] = []
    while not any("stopping: 1 run may take 3600 s to end" in line for line in lines):
        lines.append(worker.process.stdout.readline())
    assert worker.process.poll() is None
    status, output, errors = worker.stop(signal.SIGINT)
    assert (status, errors) == (0, "")
    assert f"left {run_id}: it was handed over to another worker" in output
    record = record_of(run_id)
    assert (record.status, record.deliveries) == ("queued", 0)


def test_calls_are_approved_and_rejected(start_worker: Callable[..., WorkerProcess]) -> None:
    """Without a call id the waiting ones are listed; what is no waiting call is told."""
    start_worker("desk_of_test:cashier")
    for command, output in (("approve", "refunded 7"), ("reject", "Not today.")):
        run_id = ok("submit", "Cashier", "Refund 7.").strip()
        listed = wait_for(lambda run_id=run_id: run("approve", run_id)[1], "request")
        call_id, _, call = listed.strip().partition("  ")
        assert call == 'refund({"number":7}) of Cashier'
        status, _, errors = run(command, run_id, "nobody")
        assert status == 1
        assert f"no call nobody waits for an answer in {run_id}" in errors
        assert call_id in errors
        message = ["--message", "Not today."] if command == "reject" else []
        told = {"approve": "approved", "reject": "rejected"}[command]
        assert ok(command, run_id, call_id, *message) == f"{told} {call}\n"
        shown = ok("watch", run_id)
        assert f"approval refund(number=7) waits for an answer [{call_id}]" in shown
        assert f"refund -> {output}" in shown
        assert run(command, run_id, call_id)[0] == 1
        assert "nothing waits" in run(command, run_id)[2]


def test_a_run_is_cancelled_from_elsewhere(start_worker: Callable[..., WorkerProcess]) -> None:
    """Also one that no worker has yet: it is cancelled as soon as one has it."""
    queued = ok("submit", "Slow", "Sleep.").strip()
    assert ok("cancel", queued) == f"{queued} is to end at once; no worker has it yet\n"
    start_worker("desk_of_test:slow")
    status, shown, _ = run("watch", queued)
    assert status == 1
    assert "end      cancelled" in shown
    running = ok("submit", "Slow", "Sleep.").strip()
    wait_for(lambda: record_of(running).last_seq > 3, "tool call")
    assert f"{running} is to end after its turn; it is with " in ok("cancel", running, "--after-turn")
    assert "is to end at once" in ok("cancel", running)
    assert "cancelled" in run("watch", running)[1]
    status, _, errors = run("cancel", running)
    assert (status, errors) == (1, f"Error: the run '{running}' has ended: it takes no commands any more\n")


def test_runs_are_listed() -> None:
    """The newest first, as a table or as JSON; only those that are asked for."""
    first = completed_run(owner="ann")
    second = ok("submit", "Desk", "-", given="From standard input.").strip()
    lines = ok("runs").splitlines()
    assert lines[0].split() == ["RUN", "AGENT", "STATUS", "AGE", "EVENTS"]
    assert [line.split()[:3] for line in lines[1:]] == [[second, "Desk", "queued"], [first, "Desk", "completed"]]
    assert second not in ok("runs", "--status", "completed", "--status", "failed")
    assert len(ok("runs", "--limit", "1").splitlines()) == 2
    (fields,) = [json.loads(line) for line in ok("runs", "--json", "--owner", "ann", "--agent", "Desk").splitlines()]
    assert (fields["run_id"], fields["status"], fields["owner"]) == (first, "completed", "ann")
    assert run("runs", "--agent", "Nobody") == (0, "", "no runs\n")


def test_a_run_is_watched_from_any_point() -> None:
    """After a cursor or an event's number; as JSON, the events themselves and nothing else."""
    run_id = completed_run()
    events = [decode(line.encode()) for line in ok("watch", run_id, "--json").splitlines()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    later = [decode(line.encode()) for line in ok("watch", run_id, "--json", "--after", "4").splitlines()]
    assert [event.seq for event in later] == [event.seq for event in events[4:]]
    epoch = record_of(run_id).epoch
    assert ok("watch", run_id, "--json", "--after", f"{epoch}-4") == ok("watch", run_id, "--json", "--after", "4")
    last = f"{epoch}-{len(events)}"
    for given, why, where in (
        (f"{epoch}-999", "the log does not reach that far", last),
        ("999", "the log does not reach that far", last),
        ("not-one", "it is no cursor", "0-0"),
    ):
        status, shown, told = run("watch", run_id, "--json", "--after", given)
        assert told == f"the cursor {given} is no place in the run ({why}); going on after {where}\n"
        assert (status, len(shown.splitlines())) == (0, 0 if where == last else len(events))
    assert f"end      completed: nothing comes after {last}\n" in run("watch", run_id, "--after", "999")[1]
    assert run("watch", "nobody")[0] == 1


def test_ctrl_c_leaves_the_run_alone() -> None:
    """The rest can be seen with the command that is told; status 130."""
    run_id = ok("submit", "Desk", "Hello?").strip()
    command = [sys.executable, "-m", "runstream.cli", "watch", run_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "queued: it waits for a worker" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (
        130,
        f"the run goes on; to see the rest: runstream watch {run_id} --after 0-0\n",
    )
    assert record_of(run_id).status == "queued"


def test_a_run_is_replayed() -> None:
    """As it was to see when it ran, at once or in its time; of one that goes on, what there is."""
    run_id = completed_run()
    assert ok("replay", run_id, "--instant", "--json") == ok("watch", run_id, "--json")
    shown = ok("replay", run_id, "--speed", "50", "--max-pause", "0.01")
    assert [line for line in shown.splitlines() if line] == [
        f"run      {run_id} of Desk, completed",
        "user     Hello?",
        "agent    Desk",
        "Hello there.",
        "end      completed",
    ]
    assert ok("replay", run_id, "--step") == shown  # without a terminal there are no keys to wait for
    queued = ok("submit", "Desk", "Hello?").strip()
    status, _, errors = run("replay", queued)
    assert (status, errors) == (0, f"so far: 0 events; to follow the run: runstream watch {queued}\n")
    assert run("replay", run_id, "--step", "--instant")[0] == 2


def test_a_replay_goes_step_by_step_in_a_terminal() -> None:
    """A key shows the next line or text; q ends."""
    run_id = completed_run()
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "runstream.cli", "replay", run_id, "--step"]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env={**os.environ, "TERM": "dumb"}
    ) as process:
        os.close(child)
        shown = b""

        def read_until(text: bytes) -> None:
            nonlocal shown
            while text not in shown:
                assert select.select([parent], [], [], 20)[0], shown
                shown += os.read(parent, 65536)

        def press(key: bytes) -> None:
            wait_for(lambda: not termios.tcgetattr(parent)[3] & termios.ICANON, "question for a key")
            os.write(parent, key)

        read_until(b"Hello?")
        for text in (b"agent    Desk", b"Hello there.", b"end      completed"):
            assert text not in shown
            press(b"x")
            read_until(text)
        assert process.wait(timeout=20) == 0
    os.close(parent)


def test_runs_are_deleted_and_swept() -> None:
    """By id, by person, by age and count; a run that goes on is not swept."""
    first, second, third = (completed_run(owner=owner) for owner in ("ann", "ann", "bob"))
    queued = ok("submit", "Desk", "Hello?").strip()
    assert run("delete", first, "nobody") == (1, f"deleted {first}\n", "there is no run nobody\n")
    assert ok("delete", "--owner", "ann") == "deleted 1 run of ann\n"
    assert ok("sweep", "--max-age", "7d") == "removed 0 runs\n"
    assert ok("sweep", "--max-count", "0") == "removed 1 run\n"
    assert [json.loads(line)["run_id"] for line in ok("runs", "--json").splitlines()] == [queued]
    assert second != third
    for arguments in (("delete",), ("delete", first, "--owner", "ann"), ("sweep",), ("sweep", "--max-age", "soon")):
        assert run(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("worker", "desk_of_test:nobody"), "has no 'nobody': it has desk, slow, cashier"),
        (("worker", "desk_of_test:NOT_AN_AGENT"), "is no runstream Agent, nor a list of them, but of builtins.int"),
        (("worker", "nowhere_at_all:desk"), "there is no module 'nowhere_at_all'"),
        (("worker", "desk_of_test"), "does not have the form MODULE:AGENT"),
        (("submit", "desk_of_test.py:desk", "x"), "say desk_of_test:desk"),
        (("submit", "desk_of_test:everybody", "x"), "holds 3 agents: a run begins with one"),
        (("submit", "Desk", "x", "--context", "{"), "--context is not JSON"),
        (("runs", "--store", "memory://x"), "is within one process"),
        (("runs", "--store", ""), "no store is named"),
        (("runs", "--store", "ftp://x"), "'ftp://' is no URL of a store"),
        (("runs", "--store", "sqlite:///nowhere.db"), "no run was ever kept there"),
        (("worker", "desk_of_test:desk", "--concurrency", "0"), "--concurrency"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: tuple[str, ...], words: str) -> None:
    """What is wrong and what there is instead; no traceback, and no file is made."""
    status, output, errors = run(*arguments)
    assert status in (1, 2)
    assert words in errors.replace("\n", " ")
    assert output == ""
    assert not Path("nowhere.db").exists()


def test_what_a_module_raises_goes_up(place: Path) -> None:
    """The traceback of the user's own code is theirs to see."""
    (place / "broken_of_test.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        run("worker", "broken_of_test:desk")


def test_a_worker_keeps_the_conversations_that_runs_name(start_worker: Callable[..., WorkerProcess]) -> None:
    """With --sessions; without, a run of a session is warned of."""
    worker = start_worker("desk_of_test:desk", "--sessions", "talk.db")
    for question in ("One?", "Two?"):
        run_id = ok("submit", "Desk", question, "--session", "s1").strip()
        assert run("watch", run_id)[0] == 0
    assert worker.stop()[0] == 0

    async def items() -> list[Any]:
        from runstream import SQLiteSession

        session = SQLiteSession("s1", "talk.db")
        try:
            return await session.get_items()
        finally:
            session.close()

    assert [item["role"] for item in asyncio.run(items())] == ["user", "assistant"] * 2
    worker = start_worker("desk_of_test:desk")
    run_id = ok("submit", "Desk", "Three?", "--session", "s1").strip()
    assert run("watch", run_id)[0] == 0
    assert "WARNING a run is of the session 's1', but this worker has no sessions" in worker.stop()[2]
