"""Python in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def python(
    code: str, *arguments: object, check: bool = True, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run code, which may import what lies beside the tests."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=check,
        timeout=300,
        env=env,
    )


def memory(name: str) -> int:
    """Bytes that this process takes: "VmRSS" now, or "VmHWM" at most so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(x.split()[1]) for x in status.splitlines() if x.startswith(name))
