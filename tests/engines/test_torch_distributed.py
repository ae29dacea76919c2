"""Two processes on one run: the same numbers as in one, and what becomes of a lost process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import distributed_work
import numpy as np
import pytest
import tiny_text
import yaml
from tiny_runs import curve, numbers

import pyjuice_bridge as pj
from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError

TESTS = Path(distributed_work.__file__).parent


def torchrun(*words: object, logs: Path) -> tuple[int, dict[int, str]]:
    """Start two processes; the exit status, and what each of them wrote."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    caught = ["--redirects=3", f"--log-dir={logs}"]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*start, *caught, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    written = {
        number: "".join(
            path.read_text() for path in sorted(logs.glob(f"*/attempt_0/{number}/std*.log"))
        )
        for number in (0, 1)
    }
    return done.returncode, written


def test_shared_work_gives_the_numbers_of_one_process(tmp_path: Path) -> None:
    program = Path(distributed_work.__file__)
    status, said = torchrun(program, tmp_path, logs=tmp_path / "logs")
    assert status == 0, said
    expected, counted = distributed_work.shared_work(tmp_path)
    first, second = (dict(np.load(tmp_path / f"{i}.npz")) for i in (0, 1))
    assert first.keys() == second.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], array, rtol=2e-5, atol=2e-6, err_msg=name)
    facts = [(tmp_path / f"{i}.txt").read_text().splitlines() for i in (0, 1)]
    for i, all_of_them in enumerate((counted.rows, counted.images)):
        shares = [int(lines[i]) for lines in facts]
        assert 0.4 < shares[0] / all_of_them < 0.6
    assert len(facts[0]) == 2 and "came to other-" in facts[1][2]


RUN_BOTH = """
    import json, sys
    from pathlib import Path
    import pyjuice_bridge as pj
    import tiny_text

    out = Path(sys.argv[1])
    config = json.loads((out / "configs.json").read_text())
    found = [
        pj.run(config["images"], out=out / "two/images"),
        pj.run(config["text"], text=tiny_text.splits(), out=out / "two/text"),
    ]
    assert all((each.path / "report.html").exists() and each.results for each in found)
    print("ended")
"""


def test_runs_on_images_and_text_end_with_the_table_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny_text.save_bert(tmp_path / "bert")
    phase = {"epochs": 1, "batch_size": 64}
    images = {
        "name": "tiny",
        "data": {"name": "digits", "limit": 400},
        "teacher": {"kind": "mae", "hidden": 16, "epochs": 1},
        "circuit": {"kind": "patches", "latents": 4, "patch": 4, "patch_latents": 2},
        "train": {
            "epochs": 4,
            "batch_size": 100,
            "patch_training": phase,
            "latent_training": phase,
        },
        "tune": {"epochs": 1, "step_sizes": [0.1, 0.3], "pseudocounts": [0.1]},
        "report": {"samples": 4, "inpaint": 2},
        "arms": ["lvd", "random"],
        "engine": "torch",
        "device": "cpu",
    }
    configs = {"images": images, "text": tiny_text.config(tmp_path / "bert", device="cpu")}
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(RUN_BOTH))
    status, said = torchrun(program, tmp_path, logs=tmp_path / "logs")
    assert status == 0, said
    assert all(said[i].rstrip().endswith("ended") for i in (0, 1))
    pj.run(images, out=tmp_path / "one/images")
    pj.run(configs["text"], text=tiny_text.splits(), out=tmp_path / "one/text")
    for kind in configs:
        one, two = tmp_path / "one" / kind, tmp_path / "two" / kind
        assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
        assert (one / "artifacts.json").read_text() == (two / "artifacts.json").read_text()
        for alone, shared in zip(numbers(one), numbers(two), strict=True):
            assert shared.pop("processes") == 2
            for split in ("train", "valid", "test"):
                value = shared.pop(split)["value"]
                assert value == pytest.approx(alone.pop(split)["value"], rel=1e-4)
            tried = [each.pop("trials", []) for each in (alone, shared)]
            for ours, theirs in zip(*tried, strict=True):
                assert theirs["valid"] == pytest.approx(ours["valid"], rel=1e-4)
                settings = [(t["pseudocount"], t["step_size"]) for t in (ours, theirs)]
                assert settings[0] == settings[1]
            assert alone == shared
        for alone, shared in zip(curve(one), curve(two), strict=True):
            assert alone[:5] == shared[:5]
            scores = [tuple(x for x in row[5:] if x is not None) for row in (alone, shared)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    log = (tmp_path / "two/images/log.txt").read_text()
    assert log.count("2 processes") == log.count("Random start, pass 4 (train)") == 1


DYING = """
    import os, signal, sys
    from pyjuice_bridge import processes
    from pyjuice_bridge.cli.main import main

    lost, left = sys.argv.pop(1), int(sys.argv.pop(1))
    add = processes.add

    def dying(tensor):
        global left
        left -= 1
        if left == 0 and os.environ["RANK"] == lost:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(tensor)

    processes.add = dying
    main()
"""


@pytest.mark.parametrize("lost", [1, 0])
def test_a_lost_process_ends_the_run_with_one_sentence_and_a_checkpoint(
    tmp_path: Path, lost: int
) -> None:
    config = {
        "name": "tiny",
        "data": {"name": "digits", "limit": 300},
        "circuit": {"kind": "hclt", "latents": 3},
        "train": {"epochs": 5, "batch_size": 100},
        "report": {"samples": 2, "inpaint": 1},
        "arms": ["random"],
        "engine": "torch",
        "device": "cpu",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DYING))
    out = tmp_path / "runs/tiny"
    command = ["run", tmp_path / "config.yaml", "--out", out]
    # Three batches, then two figures of the pass: the process is lost in the third pass.
    status, said = torchrun(program, lost, 13, *command, logs=tmp_path / "killed")
    assert status == 1
    errors = [line for text in said.values() for line in text.splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("error: one of the 2 processes was lost")
    assert "Traceback" not in "".join(said.values())
    assert len(list(out.parent.glob("artifacts/train-*/checkpoint.h5"))) == 1
    assert not (out / "results.json").exists()
    if lost:
        pj.run(config, out=out)
    else:
        status, said = torchrun("-m", "pyjuice_bridge", *command, logs=tmp_path / "again")
        assert status == 0, said
        assert "report: " in said[0] and not said[1]
    straight = pj.run(config, out=tmp_path / "straight")
    resumed = numbers(out)
    value = resumed[0]["test"]["value"]
    assert value == pytest.approx(straight.results[0]["test"]["value"], rel=1e-4)
    assert len(curve(out)) == len(curve(straight.path))
    assert (out / "log.txt").read_text().count("resumed after pass 2") == 1
    if not lost:
        command = json.loads((out / "results.json").read_text())[0]["command"]
        assert command.startswith("torchrun --nproc-per-node 2 -m pyjuice_bridge run ")


STUCK = """
    import ctypes, threading
    from pyjuice_bridge import processes

    c = ctypes.CDLL(None)
    mutex, condition = (ctypes.create_string_buffer(64) for _ in range(2))

    def tell():
        c.pthread_mutex_lock(mutex)  # which the wait gives back
        print("ready", flush=True)

    processes._GRACE_SECONDS = 0.1
    processes._Listener(2)
    c.pthread_mutex_lock(mutex)
    threading.Thread(target=tell, daemon=True).start()
    c.pthread_cond_wait(condition, mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="locks that are zeros when new")
def test_a_process_that_is_stuck_outside_python_ends_when_told_to() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUCK)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("error: one of the 2 processes was lost") and said.count("\n") == 1


def test_what_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    config: dict[str, Any] = {"name": "x", "data": {"name": "digits"}, "engine": "julia"}
    with pytest.raises(UserError, match="'julia' runs in one process"):
        pj.run(config, out=tmp_path / "run")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    with pytest.raises(UserError, match="64 processes need a GPU each"), processes.joined("cuda"):
        pass
