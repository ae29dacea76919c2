"""The worker process: errors, death, Ctrl-C, settings.  With Julia itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from julia_program import skip_without_julia

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions
from pyjuice_bridge.errors import UserError

OPTIONS = FitOptions(epochs=6, batch_size=20, seed=3)


@pytest.fixture(scope="module", autouse=True)
def engine() -> Engine:
    skip_without_julia()
    return get_engine("julia", "cpu")


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return hclt([1, -1, 1, 2], 3, [2, 3, 2, 3], seed=1)


@pytest.fixture(scope="module")
def x(circuit: Circuit) -> np.ndarray:
    return np.random.default_rng(2).integers(0, circuit.categories, (100, 4))


def same(found: Circuit, expected: Circuit) -> None:
    for a, b in zip(found.layers, expected.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_array_equal(layer_params(a), layer_params(b))


def alive(pid: int) -> bool:
    """Whether the process runs; what nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def left_by(pid: int) -> list[Path]:
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return [path for place in places for path in place.glob(f"pyjuice_bridge-{pid}-*")]


def test_what_julia_refuses_is_one_sentence(engine: Engine, circuit: Circuit) -> None:
    with pytest.raises(UserError) as caught:
        engine.sample(circuit, 2, seed=0, root=5)
    assert "root" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unexpected_error_brings_its_trace(engine: Engine, circuit: Circuit) -> None:
    from pyjuice_bridge.engines.julia import ask
    from pyjuice_bridge.engines.julia.exchange import Request
    from pyjuice_bridge.engines.julia.process import JuliaError

    before = engine.pid
    with pytest.raises(JuliaError) as caught:
        ask(Request("nonsense", {}, {}, {}))
    assert "MethodError" in str(caught.value) and "\n" not in str(caught.value)
    assert "serve.jl" in caught.value.__notes__[0]
    assert engine.pid == before
    assert np.isfinite(engine.log_likelihood(circuit, np.zeros((1, 4), int))).all()


def test_a_killed_worker_loses_nothing_that_was_finished(
    engine: Engine, circuit: Circuit, x: np.ndarray, tmp_path: Path
) -> None:
    options = replace(OPTIONS, epochs=60)
    straight = engine.fit(circuit, x, options)
    victim = engine.pid
    checkpoint = tmp_path / "checkpoint.h5"

    def kill(done: int, total: int) -> None:
        if done == 18:
            os.kill(victim, signal.SIGKILL)

    with pytest.raises(UserError, match="SIGKILL") as caught:
        engine.fit(circuit, x, options, checkpoint=checkpoint, on_batch=kill)
    assert "\n" not in str(caught.value)
    seen: list[tuple[int, int]] = []
    resumed = engine.fit(
        circuit, x, options, checkpoint=checkpoint, on_batch=lambda *n: seen.append(n)
    )
    assert engine.pid != victim and not alive(victim)
    # The kill came in the fourth pass; Julia may have been some passes ahead of the message.
    assert seen[0][0] >= 16 and seen[0][0] % 5 == 1 and seen[-1] == (300, 300)
    same(resumed.circuit, straight.circuit)
    assert [e.train for e in resumed.history] == [e.train for e in straight.history]
    assert left_by(os.getpid()) == []


def test_an_interrupted_training_leaves_the_worker_usable(
    engine: Engine, circuit: Circuit, x: np.ndarray, tmp_path: Path
) -> None:
    long = FitOptions(epochs=100_000, batch_size=20)
    before = engine.pid

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.fit(circuit, x, long, checkpoint=tmp_path / "c.h5", on_batch=stop)
    assert engine.pid == before
    assert engine.log_likelihood(circuit, x).shape == (100, 1)


def test_checkpoints_belong_to_one_engine_and_training(
    engine: Engine, circuit: Circuit, x: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.h5"
    engine.fit(circuit, x, OPTIONS, checkpoint=checkpoint)
    with pytest.raises(UserError, match="another training"):
        engine.fit(circuit, x[:50], OPTIONS, checkpoint=checkpoint)
    with pytest.raises(UserError, match="checkpoint"):
        get_engine("torch", "cpu").fit(circuit, x, OPTIONS, checkpoint=checkpoint)


FIT = """
    import sys
    from pathlib import Path
    import numpy as np
    from pyjuice_bridge.circuit import hdf5
    from pyjuice_bridge.engines import get_engine
    from pyjuice_bridge.engines.base import FitOptions

    folder = Path(sys.argv[1])
    engine = get_engine("julia", "cpu")
    print(engine.pid, flush=True)
    print(engine.facts()["threads"], flush=True)
    engine.fit(
        hdf5.load(folder / "circuit.h5"),
        np.load(folder / "x.npy"),
        FitOptions(epochs=100_000, batch_size=20),
        checkpoint=folder / "checkpoint.h5",
        on_epoch=lambda epoch: print(epoch.epoch, flush=True),
    )
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_stopped_parent_leaves_a_good_checkpoint_and_no_worker(
    circuit: Circuit, x: np.ndarray, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C in a terminal reaches every process of the foreground group."""
    hdf5.save(circuit, tmp_path / "circuit.h5")
    np.save(tmp_path / "x.npy", x)
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FIT), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "JULIA_NUM_THREADS": "1", "PYTHON_JULIACALL_THREADS": "2"},
    )
    assert parent.stdout is not None and parent.stderr is not None
    lines = (line.strip() for line in parent.stdout)
    worker, threads = int(next(lines)), int(next(lines))
    assert threads == 2 and alive(worker)
    while int(next(lines)) < 3:
        pass
    os.killpg(parent.pid, how)
    assert parent.wait(60) != 0
    assert gone(worker)
    if how is signal.SIGINT:
        assert parent.stderr.read().strip().endswith("KeyboardInterrupt")
    parent.stdout.close()
    parent.stderr.close()
    assert left_by(parent.pid) == []
    history: list[int] = []

    class EnoughError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise EnoughError

    long = FitOptions(epochs=100_000, batch_size=20)
    with pytest.raises(EnoughError):
        get_engine("julia", "cpu").fit(
            circuit,
            x,
            long,
            checkpoint=tmp_path / "checkpoint.h5",
            on_epoch=lambda epoch: history.append(epoch.epoch),
            on_batch=stop,
        )
    assert len(history) >= 3 and history == list(range(len(history)))


def test_the_parent_loads_neither_juliacall_nor_torch() -> None:
    code = """
        import sys
        from pyjuice_bridge.engines.julia.builders import JuliaBuilders
        print(JuliaBuilders().hclt([-1, 0], 2, 2, seed=0))
        assert not {"torch", "juliacall"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)
