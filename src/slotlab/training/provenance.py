"""Where a result comes from: package version, commit, command, machine."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import slotlab


def provenance() -> dict[str, Any]:
    """JSON values that let someone else repeat a run: version, git commit, command, torch, machine, threads, date."""
    return {
        "slotlab": slotlab.__version__,
        "commit": _commit(),
        "command": _command(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {torch.get_num_threads()} threads",
        "date": now(),
    }


def now() -> str:
    """Date and time, UTC, as ISO 8601 has them."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    program = Path(sys.argv[0])
    is_ours = program.stem == "slotlab" or program.parent.name == "slotlab"
    return shlex.join(["slotlab" if is_ours else sys.argv[0], *sys.argv[1:]])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _commit() -> str | None:
    """Commit of the source tree that runs, or None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # who commits meanwhile is not to be told of a lock
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
