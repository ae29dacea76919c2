"""Whole runs: what they write, whether it is right, what is reused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import yaml

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.types import SumLayer
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.distill.bound import likeliest_bound
from pyjuice_bridge.domains.images import make_masks
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report.run_dir import read_run

CONFIGS = {"hclt": tiny_runs.hclt_config, "patches": tiny_runs.patch_config}
FILES = {
    "config.yaml",
    "results.json",
    "metrics.jsonl",
    "bound.json",
    "figures.npz",
    "assignments.h5",
    "model.h5",
    "lvd.h5",
    "random.h5",
    "report.html",
    "log.txt",
    "artifacts.json",
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp(request.param) / "first"
    config = CONFIGS[request.param]()
    return request.param, config, pj.run(config, images=tiny_runs.images(), out=out)


def test_run_folder_is_complete(finished: Any) -> None:
    kind, _, result = finished
    extra = {"hclt.h5"} if kind == "patches" else set()
    assert {p.name for p in result.path.iterdir()} == FILES | extra
    run = read_run(result.path)
    assert [r.arm for r in run.results] == ["lvd", "random", *(["hclt"] if extra else [])]
    assert result.report.stat().st_size > 10_000
    assert yaml.safe_load((result.path / "config.yaml").read_text())["train"]["epochs"] == 4


def test_every_arm_gets_the_same_passes(finished: Any) -> None:
    _, config, result = finished
    assert {row["passes"] for row in result.results} == {config["train"]["epochs"]}
    for row in result.results:
        lines = [line for line in tiny_runs.curve(result.path) if line[0] == row["model"]]
        assert lines[-1][3] == config["train"]["epochs"]


def test_results_agree_with_the_saved_models(finished: Any) -> None:
    _, _, result = finished
    dataset = pj.data.load_dataset(tiny_runs.images())
    for row in result.results:
        model = pj.load(result.path / f"{row['model']}.h5")
        assert row["parameters"] == model.circuit.num_parameters
        for split in ("train", "valid", "test"):
            bits = model.bits_per_dim(getattr(dataset, split))
            assert row[split]["value"] == pytest.approx(bits, rel=1e-6)
            assert row[split]["unit"] == "bits/dim"


def test_bound_is_never_below_the_marginal(finished: Any) -> None:
    kind, _, result = finished
    rows = json.loads((result.path / "bound.json").read_text())
    before = ["counting"] if kind == "hclt" else ["start", "patches", "latent"]
    assert [row["stage"] for row in rows] == [*before, "fine-tune"]
    assert all(row["bound"] >= row["marginal"] for row in rows)
    valid = next(r for r in result.results if r["model"] == "lvd")["valid"]["value"]
    assert rows[-1]["marginal"] == pytest.approx(valid, rel=1e-6)


def test_lvd_pays_for_teacher_and_clusters(finished: Any) -> None:
    _, _, result = finished
    lvd = result.results[0]
    assert lvd["stage_seconds"]["clusters"] > 0
    lines = [json.loads(x) for x in (result.path / "metrics.jsonl").read_text().splitlines()]
    for row in result.results:
        own = [line for line in lines if line["arm"] == row["model"]]
        spent = sum(line["seconds"] for line in own if line["seconds"] is not None)
        before = sum(row["stage_seconds"].values())
        assert row["seconds"] == pytest.approx(spent + before, abs=0.01)
        assert own[-1]["total_seconds"] == pytest.approx(row["seconds"])


def test_figures_show_real_pixels_where_nothing_was_hidden(finished: Any) -> None:
    _, _, result = finished
    with np.load(result.path / "figures.npz", allow_pickle=False) as figures:
        original, lower = figures["inpaint/original"], figures["inpaint/masks/lower_half"]
        filled = figures["inpaint/lvd/lower_half"]
        examples = figures["clusters/examples"]
        assert figures["samples/lvd"].shape == figures["real"].shape == (4, 6, 6, 1)
    np.testing.assert_array_equal(filled[:, ~lower], original[:, ~lower])
    assert examples.shape[3:] == (3, 3, 1)
    assert examples.max() > 8


def test_second_run_reuses_everything_and_says_so(finished: Any) -> None:
    _, config, result = finished
    again = pj.run(config, images=tiny_runs.images(), out=result.path)
    names = json.loads((result.path / "artifacts.json").read_text())
    assert sorted(again.reused) == names
    assert again.results == tuple({**r, "date": again.results[0]["date"]} for r in result.results)
    assert f"reused {len(names)} of {len(names)}" in (result.path / "log.txt").read_text()


def test_fresh_run_has_the_same_numbers(finished: Any) -> None:
    _, config, result = finished
    numbers, curve = tiny_runs.numbers(result.path), tiny_runs.curve(result.path)
    out = result.path.parent / "fresh"
    fresh = pj.run(config, images=tiny_runs.images(), out=out, fresh=True)
    assert fresh.reused == ()
    assert tiny_runs.numbers(out) == numbers and tiny_runs.curve(out) == curve


def test_changes_recompute_only_what_depends_on_them(finished: Any) -> None:
    _, config, result = finished

    def stages(**changes: Any) -> set[str]:
        again = pj.run(config, images=tiny_runs.images(), out=result.path.parent / "x", **changes)
        names = json.loads((again.path / "artifacts.json").read_text())
        return {name.split("-")[0] for name in set(names) - set(again.reused)}

    assert stages(report={"samples": 3}) == {"figures"}
    assert stages(name="other") == set()
    changed = stages(train={"pseudocount": 0.7})
    assert {"train", "score", "figures"} <= changed and not changed & {"tree", "clusters"}


def test_another_config_in_the_folder_leaves_nothing_of_the_former(tmp_path: Path) -> None:
    config = tiny_runs.hclt_config(train={"epochs": 2, "batch_size": 32})
    out = tmp_path / "run"
    pj.run(config, images=tiny_runs.images(), out=out, device="cpu")
    before = {path.name for path in out.iterdir()}
    assert "images: 98 train (" in (out / "log.txt").read_text()
    again = pj.run(config, images=tiny_runs.images(), out=out, arms=["random"])
    assert before - {path.name for path in out.iterdir()} == {"lvd.h5", "assignments.h5"}
    assert again.model.circuit.meta["arm"] == "random"
    with pytest.raises(UserError, match="cannot fill 90 clusters"):
        pj.run(config, images=tiny_runs.images(9), out=out, circuit={"latents": 90})
    assert not (out / "results.json").exists() and not (out / "model.h5").exists()


def test_another_table_in_the_folder_leaves_nothing_of_the_former(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = {
        "name": "columns",
        "data": {"kind": "table"},  # data in memory need no name
        "circuit": {"latents": 2},
        "train": {"epochs": 2, "batch_size": 32},
    }
    out = tmp_path / "run"
    pj.run(config, table=rng.integers(0, 2, (60, 5)), out=out, device="cpu")
    assert (out / "table.json").exists()
    log = (out / "log.txt").read_text()
    assert "rows: 48 train (" in log and "data array: " in log
    with pytest.raises(UserError, match="cannot fill 90 clusters"):
        pj.run(config, table=rng.integers(0, 2, (60, 5)), out=out, circuit={"latents": 90})
    assert not (out / "table.json").exists()


@pytest.mark.parametrize(("scope", "points"), [("position", 8), ("pooled", 32)])
def test_too_many_clusters_name_the_field_and_the_most(
    tmp_path: Path, scope: str, points: int
) -> None:
    data = {"train": tiny_runs.images(8), **dict.fromkeys(("valid", "test"), tiny_runs.images(3))}
    kind = tiny_runs.hclt_config if scope == "position" else tiny_runs.patch_config
    config = kind(cluster={"scope": scope}, arms=["lvd"])
    section = config["circuit"]
    message = f"{points} points .* {points + 1} clusters; set 'circuit.latents' to at most {points}"
    with pytest.raises(UserError, match=message):
        wanted = {**config, "circuit": {**section, "latents": points + 1}}
        pj.run(wanted, images=data, out=tmp_path / "run")
    wanted = {**config, "circuit": {**section, "latents": points}}
    pj.run(wanted, images=data, out=tmp_path / "run")


def test_sections_of_a_file_can_change_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_runs.hclt_config()))
    patches = tiny_runs.patch_config()
    changes = {"circuit": patches["circuit"], "train": patches["train"], "arms": ["random"]}
    run = pj.run(path, images=tiny_runs.images(), out=tmp_path / "run", **changes)
    assert pj.load(run.path).circuit.meta["structure"] == "glued patches"
    written = yaml.safe_load((run.path / "config.yaml").read_text())
    assert written["cluster"]["scope"] == "pooled"


def test_tuning_is_equal_and_picks_the_best_on_validation(tmp_path: Path) -> None:
    grid = {"pseudocounts": [0.01, 50.0], "step_sizes": [0.2], "rows": 60, "epochs": 1}
    config = tiny_runs.hclt_config(tune=grid)
    result = pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")
    tried, page = [], result.report.read_text(encoding="utf-8")
    assert page.count("What tuning tried for") == 2
    for row in result.results:
        folder = next((tmp_path / "artifacts").glob(f"tune-{row['model']}-*"))
        info = json.loads((folder / "done.json").read_text())["info"]
        best = max(info["tried"], key=lambda t: t["valid"])
        assert row["tuned"] == info["best"] == {k: best[k] for k in info["best"]}
        assert row["pseudocount"] == best["pseudocount"] and row["step_size"]["start"] == 0.2
        bits = [-t["valid"] / np.log(2) / 36 for t in info["tried"]]
        assert [t["valid"] for t in row["trials"]] == pytest.approx(bits)
        assert all(f"<td>{value:.4f}</td>" in page for value in bits)
        tried.append([(t["pseudocount"], t["step_size"]) for t in info["tried"]])
    assert tried[0] == tried[1] == [(0.01, 0.2), (50.0, 0.2)]


class Means:
    """A teacher of one's own: the mean brightness of every 3 × 3 patch."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        tiles = images.reshape(n, height // 3, 3, width // 3, 3).mean(axis=(2, 4))
        return tiles.reshape(n, -1, 1).astype(np.float32)


def test_own_teacher_embeddings_and_ids_agree(tmp_path: Path) -> None:
    config, x = tiny_runs.patch_config(arms=["lvd"]), tiny_runs.images()
    object_run = pj.run(config, images=x, teacher=Means(), out=tmp_path / "runs" / "own")
    ids = Assignments.load(object_run.path / "assignments.h5").z
    dataset = pj.data.load_dataset(x)
    for folder in ("embeddings", "ids"):
        (tmp_path / folder).mkdir()
    for split in ("train", "valid", "test"):
        vectors = Means().embed(getattr(dataset, split))
        np.save(tmp_path / "embeddings" / f"{split}.npy", vectors)
        np.save(tmp_path / "ids" / f"{split}.npy", ids[split])
    given = {
        "embeddings": {"kind": "file", "embeddings": str(tmp_path / "embeddings")},
        "assignments": {"kind": "file", "assignments": str(tmp_path / "ids")},
    }
    for name, teacher in given.items():
        run = pj.run({**config, "teacher": teacher}, images=x, out=tmp_path / "runs" / name)
        assert run.results[0]["test"] == object_run.results[0]["test"]


def test_latent_tree_is_drawn_from_ids_and_not_from_bins_of_them(tmp_path: Path) -> None:
    sizes = {"kind": "patches", "latents": 24, "patch": 2, "patch_latents": 2}
    config = tiny_runs.patch_config(arms=["random"], circuit=sizes)
    run = pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")
    ids = Assignments.load(run.path / "assignments.h5").z["train"]
    trees = [np.load(p) for p in tmp_path.glob("artifacts/tree-*/parents.npy")]
    (found,) = (tree for tree in trees if len(tree) == 9)
    np.testing.assert_array_equal(found, chow_liu_tree(ids, 24, bins=24))
    assert (found != chow_liu_tree(ids, 24)).any()


def test_autoencoder_is_trained_once(tmp_path: Path) -> None:
    mae = {"kind": "mae", "hidden": 8, "mlp": 8, "heads": 2, "layers": [1, 1], "epochs": 2}
    config = tiny_runs.patch_config(arms=["lvd"], teacher=mae)
    first = pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")
    spent = first.results[0]["stage_seconds"]
    assert spent["teacher"] > 0 and spent["embed"] > 0
    again = pj.run(config, images=tiny_runs.images(), out=tmp_path / "run", circuit={"latents": 5})
    reused = {name.split("-")[0] for name in again.reused}
    assert reused == {"teacher", "embed", "tree"}
    assert again.results[0]["stage_seconds"]["teacher"] == spent["teacher"]


def test_colour_images_and_reversible_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 4, 4, 3), np.uint8)
    config = tiny_runs.hclt_config(data={"name": "array", "colour": "ycocg_r"}, arms=["random"])
    result = pj.run(config, images=x, out=tmp_path / "run")
    dataset = pj.data.load_dataset(x)
    model = pj.load(result.path)
    assert sorted(set(model.circuit.categories.tolist())) == [256, 511]
    bits = model.bits_per_dim(dataset.test)
    assert result.results[0]["test"]["value"] == pytest.approx(bits, rel=1e-6)


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"data": {"name": "array", "colour": "ycocg_r"}}, {}, "has grey images"),
    ({"circuit": {"kind": "hclt", "latents": 500}}, {}, "500"),
    ({"teacher": {"kind": "object"}}, {}, "belongs to run"),
    ({}, {"teacher": object()}, "has no method embed"),
    ({}, {"teacher": Means()}, "'circuit.kind: hclt' needs 36"),
    ({"data": {"name": "no_such_set"}}, {"images": None}, "no_such_set"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), MISTAKES)
def test_mistakes_are_one_sentence(
    tmp_path: Path, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    config = tiny_runs.hclt_config(**changes)
    given = {"images": tiny_runs.images(), **arguments}
    with pytest.raises(pj.UserError, match=message) as caught:
        pj.run(config, out=tmp_path / "run", **given)
    assert "\n" not in str(caught.value)


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.full((97, 36), 7))
    teacher = {"kind": "file", "assignments": str(tmp_path)}
    config = tiny_runs.hclt_config(teacher=teacher)
    with pytest.raises(pj.UserError, match="8 clusters, but"):
        pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")
    np.save(tmp_path / "train.npy", np.zeros((97, 36), np.int32))
    with pytest.raises(pj.UserError, match="no cluster ids for the valid images"):
        pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(pj.UserError, match="not empty and not a run's folder"):
        pj.run(tiny_runs.hclt_config(), images=tiny_runs.images(), out=tmp_path)


def test_masks() -> None:
    masks = make_masks(50, (7, 6), np.random.default_rng(0))
    assert masks["lower_half"].sum() == 4 * 6 and masks["lower_half"][3:].all()
    assert (masks["squares"].sum(axis=(1, 2)) == 3 * 3).all()
    assert len(np.unique(masks["squares"], axis=0)) > 10


def test_partial_steps_say_what_they_leave_out(tmp_path: Path) -> None:
    config = tiny_runs.patch_config(arms=["lvd"])
    config["train"] = {**config["train"], "candidates": 2}
    run = pj.run(config, images=tiny_runs.images(), out=tmp_path / "run")
    (row,) = run.results
    rows = pj.data.load_dataset(tiny_runs.images()).valid.reshape(-1, 36)
    nats = likeliest_bound(get_engine("torch"), run.model.circuit, rows, 2)
    assert row["candidates"]["values"] == 2
    assert row["candidates"]["valid"] == pytest.approx(-nats / np.log(2) / 36, rel=1e-6)
    assert row["candidates"]["valid"] >= row["valid"]["value"]
    assert "the 2 likeliest values of every latent alone" in run.report.read_text()


@pytest.mark.parametrize(
    "circuit", [{"kind": "hclt", "latents": 3}, {"kind": "region_graph", "latents": 3}]
)
def test_low_rank_leaves_begin_where_counting_ends(tmp_path: Path, circuit: dict[str, Any]) -> None:
    """A dictionary of as many entries as a variable has rows takes nothing from the start."""
    values = []
    for name, own in (("plain", {}), ("low", {"dictionary": 3})):
        config = tiny_runs.hclt_config(circuit={**circuit, **own}, arms=["lvd", "random"])
        config["train"] = {**config["train"], "epochs": 2}
        run = pj.run(config, images=tiny_runs.images(), out=tmp_path / name)
        values.append(json.loads((run.path / "bound.json").read_text())[0]["marginal"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    sums = [layer for layer in run.model.circuit.layers if isinstance(layer, SumLayer)]
    assert run.model.circuit.layers[0].params.shape[1] == sums[0].weights.shape[2] == 3
