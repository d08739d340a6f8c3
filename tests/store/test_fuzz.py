"""A short run of ``benchmarks/fuzz.py``, whose long one reads a million inputs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.fuzz import fuzz_record_rows, fuzz_server_rows

pytestmark = [
    pytest.mark.skipif(
        not hasattr(__import__("signal"), "setitimer"), reason="a hang is noticed by a timer signal"
    ),
    pytest.mark.filterwarnings("ignore:no explicit representation of timezones"),
]


@pytest.mark.parametrize(("fuzz", "n"), [(fuzz_server_rows, 1_500), (fuzz_record_rows, 300)])
def test_strange_values_are_refused_or_read_as_they_were_written(
    fuzz: Callable[[int, random.Random], Counter[str]], n: int
) -> None:
    outcomes = fuzz(n, random.Random(11))
    assert outcomes["refused"] > n / 10
    assert outcomes["read"] > n / 10
