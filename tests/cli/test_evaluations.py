"""``nextmem evaluate``'s agent loops: their success is in ``tests/evaluation``, which runs them whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tests.evaluation
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers

EVALUATION = Path(tests.evaluation.__path__[0])
LOOPS = ("qa", "locomo", "longmemeval")
covers(SUCCESS, *(f"evaluate {name}" for name in LOOPS))


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_run_in_the_tests_of_evaluation(name: str) -> None:
    assert f'"{name}"' in (EVALUATION / "test_agent_commands.py").read_text()


@covers(JSON, *(f"evaluate {name}" for name in LOOPS))
def test_their_json_is_one_value(works: Run, conversation: Path) -> None:
    memories = ["--memories", "none", "--questions", 1]
    for words in (["qa", conversation, "--ways", "none"], ["locomo", conversation, *memories]):
        assert json.loads(works("evaluate", *words, "--json").out)
