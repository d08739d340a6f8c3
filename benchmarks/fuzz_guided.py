"""Payloads and server rows whose bytes libFuzzer chooses, guided by which lines of ours they reach.

    pip install atheris        # Linux, CPython 3.11 or later
    python benchmarks/fuzz_guided.py --count 1000000

What is asserted of each input is what ``fuzz.py`` asserts. Each kind is run in a process of its own, since libFuzzer
ends its process; an input that breaks something is left in the folder that the error names.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

MEGABYTES = 64
SECONDS = 5
_TARGETS = "--target"


def main() -> None:
    """Fuzz both kinds and write the table; or, in the process of one kind, fuzz."""
    if _TARGETS in sys.argv:
        _guided(sys.argv)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs of each kind")
    count = parser.parse_args().count

    from benchmarks.report import write_table

    rows = [_run(kind, count) for kind in ("payloads", "server rows")]
    write_table(
        __file__,
        "Fuzzing guided by coverage (atheris, libFuzzer)",
        f"Every input within {SECONDS} s, no single allocation over {MEGABYTES} MB; a run ends at the first input that "
        "breaks this, raises what is no error of ours, or gives a text that its checksum does not belong to.",
        (
            "kind",
            "inputs",
            "coverage counters reached",
            "inputs kept as reaching new ones",
            "failures",
            "inputs/s",
        ),
        rows,
    )


def _run(kind: str, count: int) -> tuple[object, ...]:
    folder = Path(tempfile.mkdtemp(prefix="nextmem-guided-"))
    began = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            _TARGETS,
            kind,
            str(folder),
            f"-runs={count}",
            f"-malloc_limit_mb={MEGABYTES}",
            f"-timeout={SECONDS}",
            "-rss_limit_mb=0",
            "-max_len=4096",
            "-print_final_stats=1",
            f"-artifact_prefix={folder}/failed-",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{kind}: an input in {folder} failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    shutil.rmtree(folder)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    covered = re.findall(r"cov: (\d+)", done.stderr)[-1]
    return (
        kind,
        f"{int(stats['number_of_executed_units']):,}",
        covered,
        stats["new_units_added"],
        0,
        f"{count / (time.perf_counter() - began):,.0f}",
    )


def _guided(arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["nextmem_agents.quantization", "nextmem_agents.store"]):
        from benchmarks import fuzz
    place = arguments.index(_TARGETS)
    kind, folder = arguments[place + 1], Path(arguments[place + 2])
    (folder / "corpus").mkdir()
    if kind == "payloads":
        rng = random.Random(7)  # noqa: S311 -- no secret
        inputs = [seed[3:-8] for seed in fuzz.seeds(rng)]

        def target(data: bytes) -> None:
            fuzz.try_payload(fuzz.seal(b"NM\x01" + data))

    else:
        heads = fuzz.server_heads()
        inputs = [str(head.metadata["record"]).encode() for head in heads]

        def target(data: bytes) -> None:
            fuzz.try_server_row(heads[0], dict(heads[0].metadata, record=data.decode(errors="replace")))

    for number, data in enumerate(inputs):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)
    atheris.Setup([arguments[0], *arguments[place + 3 :], str(folder / "corpus")], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
