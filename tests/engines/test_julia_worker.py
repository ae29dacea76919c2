"""The worker process: errors, death, Ctrl-C, settings.  With Julia itself."""

from __future__ import annotations

import os
import shutil
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
from julia_program import narrow_pipe, skip_without_julia

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines import get_engine, julia_watch
from pyjuice_bridge.engines.base import Engine, FitOptions
from pyjuice_bridge.engines.julia import ask, process
from pyjuice_bridge.engines.julia.exchange import Answer, Request, exchange_folder
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
    before = engine.pid
    with pytest.raises(process.JuliaError) as caught:
        ask(Request("nonsense", {}, {}))
    assert "MethodError" in str(caught.value) and "\n" not in str(caught.value)
    assert "serve.jl" in caught.value.__notes__[0]
    assert engine.pid == before
    assert np.isfinite(engine.log_likelihood(circuit, np.zeros((1, 4), int))).all()


def test_a_killed_worker_loses_nothing_that_was_finished(
    engine: Engine, circuit: Circuit, x: np.ndarray, tmp_path: Path
) -> None:
    options = replace(OPTIONS, epochs=120)
    straight = engine.fit(circuit, x, options)
    victim = narrow_pipe()
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
    assert 16 <= seen[0][0] < 600 and seen[0][0] % 5 == 1 and seen[-1] == (600, 600)
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
    import signal
    import sys
    from pathlib import Path
    import numpy as np
    from pyjuice_bridge.circuit import hdf5
    from pyjuice_bridge.engines import get_engine
    from pyjuice_bridge.engines.base import FitOptions

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
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
    until = time.monotonic() + 30  # the watcher sweeps a moment after the worker's end
    while left_by(parent.pid) and time.monotonic() < until:
        time.sleep(0.05)
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


@pytest.mark.parametrize("attempt", range(6))
def test_a_worker_told_to_end_ends_at_once(
    engine: Engine, circuit: Circuit, x: np.ndarray, attempt: int
) -> None:
    """In the middle of a batch, at a different place each time."""
    long, victim = FitOptions(epochs=100_000, batch_size=20), engine.pid

    def end(done: int, total: int) -> None:
        if done == 20 + attempt:
            time.sleep(0.013 * attempt)
            os.kill(victim, signal.SIGTERM)

    with pytest.raises(UserError, match="SIGTERM"):
        engine.fit(circuit, x, long, on_batch=end)
    assert gone(victim) and left_by(os.getpid()) == []
    assert engine.log_likelihood(circuit, x).shape == (100, 1)


def test_a_worker_that_does_nothing_any_more_is_ended(
    engine: Engine, circuit: Circuit, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(process, "_IDLE_LOOKS", 5)
    victim = engine.pid

    def stop(done: int, total: int) -> None:
        if done == 20:
            os.kill(victim, signal.SIGSTOP)

    with pytest.raises(UserError, match="no longer did anything"):
        engine.fit(circuit, x, FitOptions(epochs=100_000, batch_size=20), on_batch=stop)
    assert gone(victim) and left_by(os.getpid()) == []


def test_processor_time_of_a_process_group() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    idle = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        until = time.monotonic() + 30
        while (process.ticks(busy.pid) or 0) < 20 and time.monotonic() < until:
            time.sleep(0.05)
        assert (process.ticks(busy.pid) or 0) >= 20
        assert (process.ticks(idle.pid) or 0) <= 2
    finally:
        for each in (busy, idle):
            each.kill()
            each.wait()
    assert process.ticks(idle.pid) is None


ASK = """
    import sys
    import numpy as np
    from pyjuice_bridge.circuit.hclt import hclt
    from pyjuice_bridge.engines import get_engine

    circuit = hclt([-1, *range(99)], 64, 4, seed=1)
    engine = get_engine("julia", "cpu")
    print(engine.pid, flush=True)
    while True:
        engine.log_likelihood(circuit, np.zeros((200_000, 100), np.uint8))
"""


def test_a_worker_ends_with_its_parent_while_it_computes() -> None:
    """In a question that says nothing until it is answered."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ASK)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    until = time.monotonic() + 60
    while not left_by(parent.pid) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    assert left_by(parent.pid) and alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(worker)
    until = time.monotonic() + 10
    while left_by(parent.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert left_by(parent.pid) == []


def test_folders_that_nobody_uses_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(julia_watch, "IN_MEMORY", tmp_path)
    stale = tmp_path / f"{julia_watch.PREFIX}1-stale"
    stale.mkdir()
    (stale / "lock").touch()
    other = tmp_path / "something-else"
    other.mkdir()
    with julia_watch.locked_folder(tmp_path) as used:
        code = f"""
            from pathlib import Path
            from pyjuice_bridge.engines import julia_watch
            julia_watch.IN_MEMORY = Path({str(tmp_path)!r})
            julia_watch.sweep()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
        assert used.is_dir() and other.is_dir() and not stale.exists()
    assert not used.exists()


def test_a_circuit_that_the_worker_has_is_not_sent_again(
    engine: Engine, circuit: Circuit, x: np.ndarray
) -> None:
    first = engine.log_likelihood(circuit, x)
    facts = {"device": "cpu", "precision": "float32"}
    again = Request("log_likelihood", facts, {"x": x}, subject=circuit)
    with exchange_folder(again.bytes) as folder:
        again.write(folder)
        process.shared_worker().ask(again, folder, lambda _: None)
        assert not (folder / "circuit.h5").exists()
        np.testing.assert_array_equal(Answer.read(folder).arrays["log_likelihood"], first)
    table = layer_params(circuit.layers[0])
    assert table is not None
    other = circuit.with_layer_params(
        [table[..., ::-1].copy(), *[None] * (len(circuit.layers) - 1)]
    )
    oracle = get_engine("torch", "cpu")
    np.testing.assert_allclose(
        engine.log_likelihood(other, x), oracle.log_likelihood(other, x), rtol=1e-5
    )
    np.testing.assert_array_equal(engine.log_likelihood(circuit, x), first)


def test_a_circuit_that_the_worker_turns_out_to_lack_is_sent(
    engine: Engine, circuit: Circuit, x: np.ndarray
) -> None:
    first = engine.log_likelihood(circuit, x)
    worker = process.shared_worker()
    engine.log_likelihood(hclt([-1, 0], 2, 2, seed=5), x[:, :2] % 2)
    worker._kept = Request("", {}, {}, subject=circuit).key
    np.testing.assert_array_equal(engine.log_likelihood(circuit, x), first)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("JULIA_NUM_THREADS", "abc", "threads"),
        ("PYTHON_JULIACALL_EXE", shutil.which("ls") or "/bin/ls", "does not answer"),
        ("JULIA_DEPOT_PATH", "/proc/none", "/proc/none"),
    ],
    ids=["threads", "no Julia", "depot"],
)
def test_why_julia_does_not_start_is_said(
    name: str, value: str, words: str, tmp_path: Path
) -> None:
    code = """
        from pyjuice_bridge.engines.julia.process import shared_worker
        from pyjuice_bridge.errors import UserError

        try:
            shared_worker()
        except UserError as error:
            print(error)
    """
    own = {k: v for k, v in os.environ.items() if k != "PYTHON_JULIACALL_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**own, name: value, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in done.stdout and done.stdout.count("\n") == 1
    if "see " in done.stdout:
        assert Path(done.stdout.strip().rpartition("see ")[2].rstrip(".")).read_text()


def test_numbers_out_of_range_are_one_sentence(
    engine: Engine, circuit: Circuit, x: np.ndarray
) -> None:
    for question, words in (
        (lambda: engine.sample(circuit, -1, seed=0), "n is -1"),
        (lambda: engine.sample(circuit, 1, seed=2**70), "seed"),
        (lambda: engine.sample(circuit, 1, seed=-1), "seed"),
        (lambda: engine.mpe(circuit, x, root=5), "root is 5"),
        (lambda: engine.posteriors(circuit, x, "z", root=-1), "root is -1"),
        (lambda: engine.fit(circuit, x, FitOptions(epochs=-1)), "epochs"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            question()
        assert "\n" not in str(caught.value)


def test_the_parent_loads_neither_juliacall_nor_torch() -> None:
    code = """
        import sys
        from pyjuice_bridge.engines.julia.builders import JuliaBuilders
        print(JuliaBuilders().hclt([-1, 0], 2, 2, seed=0))
        assert not {"torch", "juliacall"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)
