"""Work in a process of its own: a module of this package as a program."""

from __future__ import annotations

import os
import subprocess
import sys

from nextmem_agents.errors import StoreError


def run_apart(module: str, *arguments: str, given: str = "") -> str:
    """What ``python -m module arguments…`` writes, with ``given`` on its standard input.

    Raises:
        StoreError: it failed, with the end of what it said on standard error.
    """
    done = subprocess.run(  # noqa: S603 -- this package's own module
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StoreError(done.stderr.strip()[-500:] or f"it ended with {done.returncode}")
    return done.stdout
