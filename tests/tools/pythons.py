"""The Pythons of this machine: those that pyenv has installed, and those on the PATH, python3.11 and the like.

    python tests/tools/pythons.py    a line for each version but the one that runs this: version, tab, path
"""

from __future__ import annotations

import functools
import glob
import os
import re
import subprocess
import sys
from pathlib import Path

NAME = re.compile(r"python(3\.\d+t?)")  # t: free-threaded
SHOW = "import sys; print('%d.%d' % sys.version_info[:2] + 't' * (not getattr(sys, '_is_gil_enabled', lambda: 1)()))"
SECONDS = 10.0  # that a Python has to say its version: pyenv puts commands on the PATH that find no Python


def version(path: str) -> str:
    """Such as 3.9 or 3.14t; "" for what is no Python."""
    try:
        done = subprocess.run([path, "-Ec", SHOW], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.rstrip("t").split(".")))


@functools.cache
def pythons() -> dict[str, str]:
    """A path for each version, the oldest version first."""
    folders = [str(Path.home() / ".pyenv" / "versions" / "*" / "bin"), *os.get_exec_path()]
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted(glob.glob(os.path.join(folder, "python3.*")))):
        match = NAME.fullmatch(os.path.basename(path))
        if match and match[1] not in found and version(path) == match[1]:
            found[match[1]] = path
    return dict(sorted(found.items(), key=lambda item: parts(item[0])))


if __name__ == "__main__":
    ours = version(sys.executable)
    for name, path in pythons().items():
        if name != ours:
            print(f"{name}\t{path}")
