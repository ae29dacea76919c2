"""What the torch engine leaves alone: arithmetic of other threads and code, forks, memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

COMMON = """
    import os
    import signal
    import numpy as np
    import torch
    from pyjuice_bridge.circuit.hclt import hclt
    from pyjuice_bridge.engines.base import FitOptions
    from pyjuice_bridge.engines.torch import TorchEngine, denormals
    from pyjuice_bridge.errors import UserError

    torch.set_num_threads(2)
    engine = TorchEngine()
    circuit = hclt([-1, 0, 0, 1], 3, 2, seed=0)
    x = np.zeros((50, 4), int)
"""


def in_a_process(script: str) -> str:
    """Run a script by itself, since it changes what belongs to the process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMON) + textwrap.dedent(script)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DENORMALS = """
    small = torch.full((1 << 20,), 1e-40)  # in several parts, one for each thread

    def flushed() -> list[float]:
        return [float((small * 1.0 == 0).float().mean()), float(1e-310 * x.sum() == 0)]

    def settings() -> list:
        return [denormals.flushing(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()]

    x[:, 0] = 1
    seen = []
    options = FitOptions(epochs=1, batch_size=10)
    calls = [
        lambda: engine.log_likelihood(circuit, x),
        lambda: engine.expected_counts(circuit, x),
        lambda: engine.sample(circuit, 2, seed=0),
        lambda: engine.mpe(circuit, x),
        lambda: engine.posteriors(circuit, x, "z"),
        lambda: engine.fit(
            circuit, x, options,
            on_epoch=lambda epoch: seen.append(settings()),
            on_batch=lambda done, all_of_them: seen.append(settings()),
        ),
    ]
    for keep in (False, True):
        denormals.flush(keep)
        before = flushed()
        assert before == [keep, keep], before
        for call in calls:
            call()
            assert flushed() == before
        with torch.no_grad():
            for call in calls:
                call()
        assert settings() == [keep, True, False]
        for wrong in ({"x": x[:, :3]}, {"x": x, "weights": np.zeros(50)}):
            try:
                engine.expected_counts(circuit, **wrong)
            except UserError:
                pass
            assert flushed() == before
        assert seen == [[keep, True, False]] * 6 + [[keep, False, False]] * 6, seen
        seen.clear()
    denormals.flush(False)
    denormals.flush(True)
    assert flushed() == [1, 1]
    print("kept")
"""


def test_denormals_and_gradients_are_the_callers_after_every_call() -> None:
    assert in_a_process(DENORMALS) == "kept\n"


FORK = """
    engine.log_likelihood(circuit, x)
    for threads in (2, 1):
        if os.fork() == 0:
            signal.alarm(60)
            torch.set_num_threads(threads)
            try:
                print(engine.log_likelihood(circuit, x)[0, 0], flush=True)
            except UserError as error:
                print(error, flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
    print(engine.log_likelihood(circuit, x)[0, 0], flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes fork on POSIX systems")
def test_a_forked_process_is_refused_and_does_not_hang() -> None:
    refused, alone, parent = in_a_process(FORK).splitlines()
    assert refused.startswith("This process was forked from one that had used the engine")
    assert alone == parent


MEMORY = """
    import resource

    large = hclt([-1, 0], 4096, 2, seed=0)
    engine.log_likelihood(circuit, x)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 25), -1))
    for call in (
        lambda: engine.log_likelihood(large, x[:, :2]),
        lambda: engine.sample(circuit, 10**8, seed=0),
    ):
        try:
            call()
        except UserError as error:
            print(error)
    print(denormals.flushing(), engine.log_likelihood(circuit, x).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory is in use from /proc")
def test_too_little_memory_is_one_sentence() -> None:
    torch_says, numpy_says, after = in_a_process(MEMORY).splitlines()
    sentence = "The engine ran out of memory; give fewer rows or samples at a time,"
    assert torch_says.startswith(sentence) and numpy_says.startswith(sentence)
    assert after == "False (50, 1)"


JULIA_FORK = """
    from pyjuice_bridge.engines.julia.process import Worker, shared_worker
    from pyjuice_bridge.engines.julia import process

    worker = object.__new__(Worker)  # as if Julia had been started here
    worker.owner = os.getpid()
    process._shared = worker
    if os.fork() == 0:
        signal.alarm(60)
        try:
            shared_worker()
        except UserError as error:
            print(error, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes fork on POSIX systems")
def test_a_forked_process_is_refused_by_the_julia_engine() -> None:
    assert in_a_process(JULIA_FORK).startswith("This process was forked from one that had used Ju")
