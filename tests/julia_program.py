"""Programs for Julia itself, in the environment that the engine would use."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest

from pyjuice_bridge.engines.julia_environment import julia_state


def skip_without_julia() -> None:
    """Skip the test, with the reason, where circuits cannot be run with Julia."""
    state = julia_state()
    if not state.usable:
        pytest.skip(f"Julia {state.reason}")


def narrow_pipe() -> int:
    """Let Julia's worker be some 8 kB of messages ahead of its reader at most; return its id."""
    from pyjuice_bridge.engines.julia.process import shared_worker

    worker = shared_worker()
    assert worker._process.stdout is not None
    fcntl.fcntl(worker._process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    return worker.pid


def run_julia(program: str, *arguments: object) -> str:
    """What ``program``, which finds ``arguments`` in ``ARGS``, prints; a failure fails the test."""
    skip_without_julia()
    state = julia_state()
    assert state.executable is not None
    flags = [f"--project={state.project}", "--startup-file=no", "-e", program]
    done = subprocess.run(
        [state.executable, *flags, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JULIA_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
