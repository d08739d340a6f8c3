"""What importing llama_index_nextmem needs, and what it must not."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_missing_extra_says_how_to_install_it_and_no_other_framework_is_imported() -> None:
    told = python(
        "import sys; sys.modules['llama_index.core'] = None\n"
        "from nextmem_agents import MissingExtra\n"
        "try:\n    import llama_index_nextmem\nexcept MissingExtra as error:\n    print(error)\n"
        "print('langchain_core' in sys.modules)"
    )
    assert 'pip install "nextmem-agents[llama-index]"' in told
    assert told.splitlines()[-1] == "False"


def test_langchain_is_never_imported() -> None:
    code = (
        "import sys, llama_index_nextmem\n"
        "print([name for name in sys.modules if name.startswith(('langchain', 'langgraph'))])"
    )
    assert python(code).strip() == "[]"
