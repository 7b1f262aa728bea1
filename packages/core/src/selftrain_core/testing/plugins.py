"""What every plugin module must be: light, and right about what it names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def check_plugin(module_name: str) -> None:
    """Check a plugin's module in a process of its own.

    It imports the standard library and `selftrain_core.hookspecs` alone; every spec's `config` resolves to a settings
    model without importing torch; every `load` resolves to a class that fulfils its interface, a data source's without
    importing torch.

    Args:
        module_name: The module that the entry point names.

    Raises:
        AssertionError: It is not so; the message lists everything that is wrong.
    """
    probe = Path(__file__).with_name("plugin_probe.py")
    # -P: the folder of the probe must not come before the installed packages.
    done = subprocess.run([sys.executable, "-P", str(probe), module_name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{module_name} cannot be checked:\n{done.stderr}"
    problems = json.loads(done.stdout.splitlines()[-1])
    assert not problems, "\n".join([f"{module_name}:", *problems])
