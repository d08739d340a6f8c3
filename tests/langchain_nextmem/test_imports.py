"""What importing langchain_nextmem needs, and what it must not."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("package", ["langchain", "langchain_classic", "langchain_core"])
def test_a_missing_extra_says_how_to_install_it(package: str) -> None:
    told = python(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from nextmem_agents import MissingExtra\n"
        "try:\n    import langchain_nextmem\nexcept MissingExtra as error:\n    print(error)"
    )
    assert 'pip install "nextmem-agents[langchain]"' in told
    assert f"needs {package}," in told


def test_another_missing_module_is_not_taken_for_the_extra() -> None:
    told = python(
        "import sys; sys.modules['torch'] = None\n"
        "from nextmem_agents import MissingExtra\n"
        "try:\n    import langchain_nextmem\nexcept ImportError as error:\n"
        "    print(isinstance(error, MissingExtra))"
    )
    assert told.strip() == "False"


def test_no_other_framework_is_imported() -> None:
    assert python("import sys, langchain_nextmem\nprint('llama_index' in sys.modules)").strip() == "False"
