"""Agents whose models are scripted, to be served to the page by tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

from runstream import Agent, RunConfig
from runstream.cli.served_desk import served_desk
from runstream.clock import system_clock
from runstream.server import create_app
from runstream.testing import Message, ScriptedModel, Turn

HOLD = Path(os.environ.get("PAGE_HOLD", "no-such-file"))
LONG_WORDS = 150
LONG = "\n\n".join(" ".join(f"w{n}" for n in range(start, start + 10)) for start in range(0, LONG_WORDS, 10))

HOSTILE = """\
<script>window.pwned = 1</script>

<img src=x onerror="window.pwned = 2"> <svg onload="window.pwned = 3"><script>window.pwned = 4</script></svg>

[link](javascript:window.pwned=5) [coded](java&#x73;cript:window.pwned=6) [spaced]( \tJaVaScRiPt:window.pwned=7 )
[data](data:text/html;base64,PHNjcmlwdD5wd25lZD04PC9zY3JpcHQ+) [vb](vbscript:x) [blank](about:blank) [file](file:///etc)

![a](javascript:window.pwned=9) ![b](https://evil.example/pixel.png?secret=1)
![c](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)

<a href="javascript:window.pwned=10">x</a> <iframe srcdoc="<script>parent.pwned=11</script>"></iframe>
<!-- --!> <img src=x onerror=window.pwned=12> -->
<math><mtext></form><form><mglyph><style></math><img src onerror=pwned=13>

<details open ontoggle="window.pwned=14"><summary>s</summary></details> &lt;img src=x onerror=window.pwned=15&gt;

```html
</code></pre><script>window.pwned = 16</script>
```

```"><img src=x onerror=window.pwned=17>
code
```

| <script>pwned=18</script> | `<b onclick=pwned=19>` |
| --- | --- |
| **<img src=x onerror=pwned=20>** | <javascript:pwned=21> |

[ref]: javascript:pwned=22
[ref] <https://example.com/"onmouseover="pwned=23> https://example.com/<script>pwned=24</script>
The end.
"""


class HeldClock:
    """The system's clock, but for its sleeps: as many may end as the file says that HOLD names, all if it is not there.
    So a test can hold a model in mid-sentence for as long as it needs."""

    def __init__(self) -> None:
        self._slept = 0

    def now(self) -> float:
        return system_clock.now()

    def timeout(self, delay_s: float | None) -> Any:
        return system_clock.timeout(delay_s)

    async def sleep(self, delay_s: float) -> None:
        self._slept += 1
        await system_clock.sleep(delay_s)
        while self._is_held():
            await system_clock.sleep(0.02)

    def _is_held(self) -> bool:
        try:
            return self._slept > int(HOLD.read_text() or 0)
        except OSError:
            self._slept = 0
            return False


def _long(call: Any) -> Turn:
    return Turn((Message(LONG),), every_s=0.004)


long = Agent(name="Long", model=ScriptedModel(default=_long, clock=HeldClock()))
hostile = Agent(name="Hostile", model=ScriptedModel(default=lambda _: Turn((Message(HOSTILE, chunks=7),))))
desk = served_desk(scripted=True, pace=0.1)
agents = [desk, long, hostile]

if __name__ == "__main__":
    # As `runstream serve`, but what a killed server leaves is taken over sooner.
    port, store = sys.argv[1:]
    config = RunConfig(on_approval="wait", lease_s=1.0)
    uvicorn.run(create_app(agents, store=store, run_config=config, drain_s=0), port=int(port), log_level="warning")
