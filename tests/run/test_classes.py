"""Runs with classes: circuits of every label's images alone, mixed, and Bayes' rule by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from PIL import Image

import pyjuice_bridge as pj
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.report.run_dir import read_run


def labelled() -> dict[str, np.ndarray]:
    """Bars across in images of one class, down in those of the other."""
    images = tiny_runs.images(160)
    labels = np.arange(len(images)) % 2
    images[labels == 1] = images[labels == 1].transpose(0, 2, 1, 3)
    return {"train": images, "train_labels": np.array(["across", "down"])[labels]}


def config(**changes: Any) -> dict[str, Any]:
    return tiny_runs.hclt_config(circuit={"kind": "hclt", "latents": 2, "classes": True}, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("classes") / "run"
    return pj.run(config(), images=labelled(), out=out)


def test_labels_follow_their_images() -> None:
    given = labelled()
    data = load_dataset(given, seed=3)
    plain = load_dataset(given["train"], seed=3)
    assert data.classes == ("across", "down")
    for split in ("train", "valid", "test"):
        images, labels = getattr(data, split), data.labels[split]
        np.testing.assert_array_equal(images, getattr(plain, split))
        rows = images.reshape(len(images), -1)
        every = given["train"].reshape(160, -1)
        (places,) = np.nonzero((rows[:, None] == every).all(2))[1:]
        np.testing.assert_array_equal(labels, places % 2)


def test_figures_and_accuracy_are_those_of_bayes_rule(run: Any) -> None:
    data = load_dataset(labelled())
    share = np.bincount(data.labels["train"]) / len(data.train)
    for row in run.results:
        model = pj.load(run.path / f"{row['model']}.h5")
        assert json.loads(model.circuit.meta["classes"]) == ["across", "down"]
        for split in ("train", "valid", "test"):
            images, labels = getattr(data, split), data.labels[split]
            known = [np.full((len(images), 1), k) for k in (0, 1)]
            joint = np.stack([model.log_likelihood(images, {"class": z}) for z in known], 1)
            right = float((joint.argmax(1) == labels).mean())
            assert row["accuracy"][split] == pytest.approx(right)
            bits = -np.logaddexp(*joint.T).mean() / np.log(2) / images[0].size
            assert row[split]["value"] == pytest.approx(bits, rel=1e-6)
        posterior = model.posteriors(data.test)["class"][:, 0]
        np.testing.assert_allclose(
            posterior, np.exp(joint - np.logaddexp(*joint.T)[:, None]), atol=1e-5
        )
        root = model.circuit.layers[-1]
        np.testing.assert_allclose(root.weights[0, 0], share, rtol=1e-6)


def test_a_class_is_the_run_on_its_images(run: Any, tmp_path: Path) -> None:
    part = load_dataset(labelled()).of_class(1)
    images = {"train": part.train, "valid": part.valid, "test": part.test}
    plain = tiny_runs.hclt_config(circuit={"kind": "hclt", "latents": 2}, arms=["random"])
    alone = pj.run(plain, images=images, out=tmp_path / "alone")
    both = pj.load(run.path / "random.h5")
    known = both.log_likelihood(part.test, {"class": np.ones((len(part.test), 1), int)})
    share = float(np.log(np.mean(load_dataset(labelled()).labels["train"] == 1)))
    np.testing.assert_allclose(known - share, alone.model.log_likelihood(part.test), rtol=1e-4)


def test_files_name_the_class_and_a_second_run_reuses_all(run: Any) -> None:
    lines = [json.loads(x) for x in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["arm"], x["sweep"]["data.class"], x["passes"]) for x in lines] == [
        (arm, name, i)
        for arm in ("lvd", "random")
        for name in ("across", "down")
        for i in (1, 2, 3, 4)
    ]
    html = run.report.read_text(encoding="utf-8")
    assert "Accuracy<br>on test" in html and "<h3>Class across</h3>" in html
    (row, _) = read_run(run.path).results
    assert f"{100 * row.accuracy['test']:.2f} %" in html
    again = pj.run(config(), images=labelled(), out=run.path)
    assert len(again.reused) == len(json.loads((run.path / "artifacts.json").read_text()))
    other = labelled()
    other["train_labels"] = other["train_labels"][::-1]
    swapped = pj.run(config(arms=["random"]), images=other, out=run.path.parent / "other")
    # The images of either class are those of the other one before.
    assert any(name.startswith("train-") for name in swapped.reused)
    assert not any(name.startswith("classes-") for name in swapped.reused)


def test_labels_come_from_folders_files_and_sets(tmp_path: Path) -> None:
    given = labelled()
    for i, (image, name) in enumerate(zip(given["train"], given["train_labels"], strict=True)):
        path = tmp_path / "set" / "train" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    np.savez(tmp_path / "set.npz", **given)
    for name in ("set", "set.npz"):
        data = load_dataset(tmp_path / name)
        assert data.classes == ("across", "down")
        across = data.train[..., 0].max(axis=2).std(axis=1) > 1.5
        assert (across == (data.labels["train"] == 0)).mean() > 0.95
    Image.fromarray(given["train"][0, ..., 0]).save(tmp_path / "set" / "train" / "loose.png")
    assert load_dataset(tmp_path / "set").classes == ()


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"train": labelled()["train"]}, {}, "needs labels, but arrays has none: give each class"),
    ({**labelled(), "train_labels": np.zeros(3, int)}, {}, r"train labels are int64 \[3\]; give a"),
    ({**labelled(), "train_labels": np.zeros(160)}, {}, r"train labels are float64 \[160\]"),
    ({**labelled(), "train_labels": np.r_[5, np.zeros(159, int)]}, {}, "no .* (class|label) 5"),
    (labelled(), {"teacher": {"kind": "file", "embeddings": "x"}}, "but 'teacher.kind' is 'file'"),
]


@pytest.mark.parametrize(("images", "changes", "message"), MISTAKES)
def test_mistakes_are_one_sentence(
    tmp_path: Path, images: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(pj.UserError, match=message) as caught:
        pj.run(config(**changes), images=images, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
