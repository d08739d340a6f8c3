"""How long the first recall of a fresh process takes, and how much memory, beside the imports that it needs.

    python benchmarks/cold_start.py [ROUNDS]    # writes benchmarks/cold_start.md and cold_start.json

Each line is a process of its own, started in turns; medians of ROUNDS, three by default. The folder is new each time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from report import write_table

PROGRAMS = {
    "import torch, transformers, chromadb": "import torch, transformers, chromadb",
    "import nextmem_agents": "import nextmem_agents",
    "NextMem.open() and the first recall": """
from nextmem_agents import NextMem
with NextMem.open() as memory:
    scope = memory.scope()
    [hit.text for hit in scope.recall("Where does she live?")]
    report()
""",
    "NextMemMemory() and the first recall": """
from langchain_nextmem import NextMemMemory
memory = NextMemMemory()
memory.load_memory_variables({"input": "Where does she live?"})
report()
""",
}
_AROUND = """
import json, os, resource, time
begun = time.perf_counter()
def report():
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Not ru_maxrss, which begins with what the parent process had.
    peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
    print(json.dumps([time.perf_counter() - begun, used.ru_utime + used.ru_stime, int(peak) / 1024]), flush=True)
    os._exit(0)
{program}
report()
"""


def run(program: str) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of the processor and peak resident MiB of a Python program."""
    with tempfile.TemporaryDirectory() as home:
        found = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _AROUND.format(program=program)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NEXTMEM_HOME": home},
        )
    clock, processor, peak = json.loads(found.stdout.splitlines()[-1])
    return clock, processor, peak


def main(rounds: int = 3) -> None:
    """Measure, and write the table."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PROGRAMS}
    run(next(iter(PROGRAMS.values())))  # fills the file cache
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            found[name].append(run(program))
    middle = {
        name: [statistics.median(each[i] for each in runs) for i in range(3)] for name, runs in found.items()
    }
    base = next(iter(middle.values()))
    write_table(
        __file__,
        "Cold start",
        f"{rounds} round(s). Bars: `NextMemMemory()` with its first recall at most 1.3 times the imports plus 1.5 s, "
        f"here {1.3 * base[0] + 1.5:.2f} s by the clock and {1.3 * base[1] + 1.5:.2f} s of the processor; `import "
        f"nextmem_agents` below 0.3 s; peak memory at most 1.5 times the imports', {1.5 * base[2]:.0f} MiB.",
        ["program", "seconds", "processor seconds", "peak MiB"],
        [(name, f"{clock:.2f}", f"{cpu:.2f}", f"{peak:.0f}") for name, (clock, cpu, peak) in middle.items()],
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
