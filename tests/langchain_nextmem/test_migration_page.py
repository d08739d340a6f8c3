"""The listings of docs/migration.md run as they stand."""

from __future__ import annotations

import doctest
import warnings
from pathlib import Path

from langchain_core._api import LangChainDeprecationWarning

PAGE = Path(__file__).parents[2] / "docs/migration.md"


def test_the_listings_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)  # it is what people come from
        result = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 15
    assert result.failed == 0
