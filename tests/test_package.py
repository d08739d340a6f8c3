"""Promises about importing: quick, and nothing heavy or foreign comes along."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nextmem_agents

HEAVY = [
    "torch",
    "transformers",
    "chromadb",
    "peft",
    "bitsandbytes",
    "langchain_core",
    "llama_index",
    "tiktoken",
]


def modules_after(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import nextmem_agents").intersection(HEAVY)


def test_importing_the_package_takes_less_than_300_ms() -> None:
    code = "import time; t = time.perf_counter(); import nextmem_agents; print(time.perf_counter() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) < 0.3


def test_using_the_memory_imports_neither_peft_nor_bitsandbytes_nor_a_framework() -> None:
    code = (
        "from nextmem_agents import NextMem\n"
        f"with NextMem.open(':memory:', codec={_codec()!r}) as m:\n"
        "    m.scope('a').remember('hello'); m.scope('a').recall('hello')[0].text"
    )
    forbidden = {"peft", "bitsandbytes", "langchain_core", "langchain_classic", "llama_index"}
    assert not modules_after(code) & forbidden


def _codec() -> str:
    from tests.conftest import CODEC

    return CODEC


def test_every_public_name_exists_and_is_documented() -> None:
    for name in nextmem_agents.__all__:
        assert getattr(nextmem_agents, name).__doc__, name


def test_every_error_is_exported_and_under_one_root() -> None:
    from nextmem_agents import errors

    own = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert own <= set(nextmem_agents.__all__)
    assert all(issubclass(getattr(errors, name), nextmem_agents.NextMemError) for name in own)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = nextmem_agents.Nonsense
