import json

import numpy as np
import pytest
import yaml

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report import compare_table


def write_run(path, config, arms, seed, **changes):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    rows = [
        {
            "model": arm,
            "engine": "torch",
            "device": "cpu",
            "parameters": 1234,
            **{
                split: {"value": value + shift, "unit": "bits/dim"}
                for split, shift in (("train", -0.1), ("valid", 0.1), ("test", 0.0))
            },
            "seconds": 100.0 * value,
            "peak_memory_bytes": int(1e6 * value),
            "seed": seed,
        }
        | changes
        for arm, value in arms.items()
    ]
    (path / "results.json").write_text(json.dumps(rows))
    return path


def test_mean_and_spread_equal_numpy_over_seeds(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.uniform(1.0, 1.3, (2, 2, 4))
    runs = [
        write_run(
            tmp_path / f"{k}-{seed}",
            {"name": f"run-{k}-{seed}", "cluster": {"k": k, "scope": "pooled"}},
            {"lvd": values[i, 0, seed], "random": values[i, 1, seed]},
            seed,
        )
        for seed in range(4)
        for i, k in enumerate((16, 32))
    ]
    rows = compare_table(runs)
    assert [(r.label, r.arm) for r in rows] == [
        ("cluster.k=16", "lvd"),
        ("cluster.k=16", "random"),
        ("cluster.k=32", "lvd"),
        ("cluster.k=32", "random"),
    ]
    for row, of_seeds in zip(rows, values.reshape(4, 4), strict=True):
        assert row.seeds == (0, 1, 2, 3)
        assert row.parameters == 1234
        assert row.peak_memory_bytes == int(1e6 * of_seeds.max())
        for split, shift in (("train", -0.1), ("valid", 0.1), ("test", 0.0)):
            assert row.values[split].mean == pytest.approx(of_seeds.mean() + shift, abs=1e-12)
            assert row.values[split].sd == pytest.approx(of_seeds.std(ddof=1), abs=1e-12)
        assert row.seconds.mean == pytest.approx(100 * of_seeds.mean())


def test_labels_leave_out_what_follows_from_a_kind(tmp_path):
    circuits = [
        {"kind": "hclt", "latents": 4},
        {"kind": "patches", "latents": 4, "patch": 2},
        {"kind": "patches", "latents": 4, "patch": 3},
    ]
    runs = [
        write_run(tmp_path / str(i), {"name": "a", "circuit": circuit}, {"lvd": 1.5}, 0)
        for i, circuit in enumerate(circuits)
    ]
    assert [row.label for row in compare_table(runs[:2])] == [
        "circuit.kind=hclt",
        "circuit.kind=patches",
    ]
    assert [row.label for row in compare_table(runs)] == [
        "circuit.kind=hclt",
        "circuit.kind=patches, circuit.patch=2",
        "circuit.kind=patches, circuit.patch=3",
    ]
    tuned = {"name": "a", "circuit": circuits[0], "tune": {"rows": 5}}
    plain = {"name": "a", "circuit": circuits[0], "tune": None}
    runs = [
        write_run(tmp_path / name, config, {"lvd": 1.5}, 0)
        for name, config in (("tuned", tuned), ("plain", plain))
    ]
    assert [row.label for row in compare_table(runs)] == ["tune.rows=5", "tune=None"]


def test_one_run_has_no_spread_and_a_missing_figure_is_not_averaged(tmp_path):
    config = {"name": "digits", "data": "digits"}
    one = write_run(tmp_path / "a", config, {"lvd": 1.5}, 0)
    (row,) = compare_table([one, tmp_path / "b" / ".." / "a"])
    assert (row.label, row.runs) == ("digits", (one.resolve(),))
    assert row.values["test"].mean == 1.5
    assert row.values["test"].sd is None
    two = write_run(tmp_path / "b", config, {"lvd": 1.7}, 1, test=None, parameters=99)
    (row,) = compare_table([one, two])
    assert row.values["test"] is None
    assert row.values["valid"].mean == pytest.approx(1.7)
    assert row.parameters is None


def test_an_arm_that_only_some_runs_have_is_averaged_over_those(tmp_path):
    config = {"data": "digits"}
    runs = [
        write_run(tmp_path / "a", config, {"lvd": 1.0}, 0),
        write_run(tmp_path / "b", config, {"lvd": 2.0, "hclt": 3.0}, 1),
    ]
    lvd, hclt = compare_table(runs)
    assert (lvd.values["test"].mean, lvd.seeds) == (1.5, (0, 1))
    assert (hclt.values["test"].mean, hclt.seeds) == (3.0, (1,))


def test_the_same_seed_twice_is_refused(tmp_path):
    runs = [write_run(tmp_path / name, {"data": "digits"}, {"lvd": 1.0}, 3) for name in "ab"]
    with pytest.raises(UserError, match=r"same settings and same seed \(3\) for arm lvd"):
        compare_table(runs)


@pytest.mark.parametrize("file", ["config.yaml", "results.json"])
def test_an_unfinished_run_is_named(tmp_path, file):
    run = write_run(tmp_path / "a", {"data": "digits"}, {"lvd": 1.0}, 0)
    (run / file).unlink()
    with pytest.raises(UserError, match=rf"a/{file}: missing or empty"):
        compare_table([run])


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run directory"):
        compare_table([tmp_path / "nowhere"])
