"""Configs: each mistake is one exact sentence; what is read back is what was meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pyjuice_bridge.config import Config, load_config, make_config, put
from pyjuice_bridge.errors import UserError

BASE: dict[str, Any] = {"name": "a", "data": {"name": "digits"}}
PATCHES = {"kind": "patches"}

TEXT: dict[str, Any] = {"name": "x.txt", "kind": "text"}
HMM = {"kind": "hmm"}

MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"sed": 1}, "there is no field 'sed'; did you mean 'seed'?"),
    ({"train": {"epoch": 3}}, "there is no field 'train.epoch'; did you mean 'epochs'?"),
    (
        {"train": {"step_size": {"xyz": 3}}},
        "there is no field 'train.step_size.xyz'; allowed are start, end, kind and switch",
    ),
    ({"train": {"epochs": "3"}}, "'train.epochs' is '3', but must be a whole number"),
    ({"train": {"epochs": 0}}, "'train.epochs' is 0, but must be at least 1"),
    ({"train": {"epochs": 1}}, "'train.epochs' is 1, but counting is one pass; use at least 2"),
    (
        {"train": {"pseudocount": float("inf")}},
        "'train.pseudocount' is inf, but must be a finite number",
    ),
    (
        {"teacher": {"kind": "mae", "heads": 3}, "circuit": {"kind": "patches"}},
        "'teacher': 'heads' is 3, but must divide 'hidden', which is 128",
    ),
    ({"train": None}, "'train' is empty, but must be a section of 'field: value' lines"),
    (
        {"train": {"step_size": {"start": 1.5}}},
        "'train.step_size.start' is 1.5, but must be at most 1.0",
    ),
    (
        {"train": {"step_size": {"kind": "lin"}}},
        "'train.step_size.kind' is 'lin'; choose linear, cosine, constant or step; "
        "did you mean 'linear'?",
    ),
    (
        {"teacher": {"kind": "mea"}},
        "'teacher.kind' is 'mea'; choose pixels, mae, vit_mae, efficientnet, file, object or text; "
        "did you mean 'mae'?",
    ),
    (
        {"teacher": {"kind": None}},
        "'teacher.kind' is missing; choose pixels, mae, vit_mae, efficientnet, file, object or "
        "text",
    ),
    ({"teacher": {"hidden": 3}}, "'teacher.hidden' belongs to 'teacher.kind: mae'"),
    ({"circuit": {"patch": 4}}, "'circuit.patch' belongs to 'circuit.kind: patches'"),
    (
        {"circuit": {"latent": 4}},
        "there is no field 'circuit.latent'; did you mean 'latents'?",
    ),
    (
        {"teacher": {"kind": "mae", "hiden": 3}},
        "there is no field 'teacher.hiden'; did you mean 'hidden'?",
    ),
    (
        {"teacher": {"kind": "file"}},
        "'teacher': give either 'embeddings' or 'assignments', not both",
    ),
    (
        {"teacher": {"kind": "mae"}},
        "'teacher.kind: mae' describes patches, while 'circuit.kind: hclt' needs features of every "
        "pixel; use 'pixels' or 'circuit.kind: patches'",
    ),
    ({"circuit": 3}, "'circuit' is 3, but must be a section of 'field: value' lines"),
    (
        {"circuit": {**PATCHES, "latent": 3}},
        "there is no field 'circuit.latent'; did you mean 'latents'?",
    ),
    (
        {"circuit": PATCHES, "train": {"epochs": 3}},
        "'train.epochs' is 3, but patch and latent training already take 6 of the passes; "
        "use at least 7",
    ),
    (
        {"circuit": PATCHES, "cluster": {"scope": "position"}},
        "'cluster.scope: position' has no patch circuits; use 'pooled'",
    ),
    (
        {"train": {"patch_training": {"epochs": 1}}},
        "'train.patch_training' belongs to 'circuit.kind: patches' only",
    ),
    ({"arms": ["lvdd"]}, "'arms.0' is 'lvdd'; choose lvd, random or hclt; did you mean 'lvd'?"),
    ({"arms": ["lvd", "lvd"]}, "'arms': the same arm is listed twice"),
    ({"arms": []}, "'arms' is empty; give at least 1"),
    ({"arms": ["hclt"]}, "the arm 'hclt' belongs to 'circuit.kind: patches' only"),
    ({"seed": True}, "'seed' is true, but must be a whole number"),
    ({"seed": 1.5}, "'seed' is 1.5, but must be a whole number"),
    ({"name": "a b"}, "'name' is 'a b'; use letters, digits, '.', '_' and '-' only"),
    ({"data": {}}, "'data.name' is missing"),
    ({"data": {"nam": "x"}}, "there is no field 'data.nam'; did you mean 'name'?"),
    ({"tune": {"pseudocounts": ["a"]}}, "'tune.pseudocounts.0' is 'a', but must be a number"),
    ({"data": {"name": "x", "window": 8}}, "'data.window' belongs to 'data.kind: text'"),
    (
        {"data": {**TEXT, "kind": "txt"}},
        "'data.kind' is 'txt'; choose images or text; did you mean 'text'?",
    ),
    ({"circuit": HMM}, "'circuit.kind: hmm' is for text, but 'data.kind' is 'images'"),
    (
        {"teacher": {"kind": "text"}},
        "'teacher.kind: text' is for text, but 'data.kind' is 'images'",
    ),
    ({"sweep": {}}, "'sweep' belongs to 'circuit.kind: hmm' only"),
    (
        {"data": TEXT, "circuit": PATCHES},
        "'circuit.kind: patches' models images, but 'data.kind' is 'text'; use 'hmm'",
    ),
    (
        {"data": TEXT, "teacher": {"kind": "mae"}},
        "'teacher.kind: mae' reads images, but 'data.kind' is 'text'; use 'text'",
    ),
    (
        {"data": TEXT, "cluster": {"scope": "position"}},
        "'cluster.scope: position' has no HMM, whose states are the same at every position; "
        "use 'pooled'",
    ),
    (
        {"data": {**TEXT, "window": 8, "stride": 9}},
        "'data': 'stride' is 9, more than the window of 8, which would leave tokens out",
    ),
    (
        {"data": {**TEXT, "vocabulary": 9}},
        "'data': 'vocabulary' limits 'tokens: words'; word pieces have their own",
    ),
    ({"data": {**TEXT, "valid": 1.0}}, "'data.valid' is 1.0, but must be less than 1.0"),
    ({"data": TEXT, "arms": ["hclt"]}, "the arm 'hclt' belongs to 'circuit.kind: patches' only"),
    (
        {"data": TEXT, "train": {"epochs": 1}},
        "'train.epochs' is 1, but counting is one pass; use at least 2",
    ),
    (
        {"data": TEXT, "sweep": {"states": [4, 4]}},
        "'sweep.states': the same number is listed twice",
    ),
    (
        {"data": TEXT, "sweep": {"states": [4, 8], "pseudocounts": [0.1]}},
        "'sweep': 'pseudocounts' has 1 entries, but 'states' has 2; give one for each",
    ),
    ({"data": TEXT, "sweep": {"states": [1]}}, "'sweep.states.0' is 1, but must be at least 2"),
    (
        {"data": TEXT, "circuit": {"latents": 4}},
        "'circuit.latents' belongs to 'circuit.kind: hclt'",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), MESSAGES, ids=lambda v: str(v)[:40])
def test_each_mistake_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_config({**BASE, **change}, "c.yaml")
    assert str(caught.value) == f"c.yaml: {sentence}"


YAML_MISTAKES = [
    ("name: a\n b: c\n", ", line 2: not valid YAML: mapping values are not allowed here"),
    ("name: a\nname: b\n", ", line 2: not valid YAML: the field 'name' is given twice"),
    ("- 1\n", ": a config is a list of 'field: value' lines, starting with 'name:'"),
    ("name: 2020-13-45\n", ": not valid YAML: month must be in 1..12"),
    (
        "name: !!python/object/apply:os.getcwd []\n",
        ", line 1: not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), YAML_MISTAKES)
def test_yaml_mistakes_name_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}{sentence}"


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        load_config(tmp_path / "b.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(BASE))
    changes = ["train.epochs=5", "train.step_size.start=1e-1", "arms=[random]", "data.limit=50"]
    config = load_config(path, changes)
    assert config.train.epochs == 5 and config.train.step_size.start == 0.1
    assert config.arms == ["random"] and config.data.limit == 50
    for wrong in ("epochs", "=3"):
        with pytest.raises(UserError, match="write it as --set"):
            load_config(path, [wrong])
    with pytest.raises(UserError, match="there is no field 'trian'; did you mean 'train'"):
        load_config(path, ["trian.epochs=5"])


def test_change_of_kind_drops_the_other_kinds_fields() -> None:
    values: dict[str, Any] = {"circuit": {"kind": "hclt", "latents": 8}}
    put(values, "circuit.kind", "patches")
    assert values == {"circuit": {"kind": "patches"}}
    put(values, "circuit.latents", 4)
    put(values, "circuit.kind", "patches")
    assert values == {"circuit": {"kind": "patches", "latents": 4}}
    values = {"teacher": {"ring": 2}, "train": {"step_size": {"start": 0.3, "kind": "linear"}}}
    put(values, "teacher.kind", "pixels")
    assert values["teacher"] == {"kind": "pixels", "ring": 2}
    put(values, "train.step_size.kind", "cosine")
    assert values["train"]["step_size"] == {"start": 0.3, "kind": "cosine"}


def test_a_section_without_a_kind_is_of_the_default_kind() -> None:
    config = make_config({**BASE, "circuit": {"latents": 4}, "teacher": {"ring": 1}})
    explicit = {"circuit": {"kind": "hclt", "latents": 4}, "teacher": {"kind": "pixels", "ring": 1}}
    assert config == make_config({**BASE, **explicit})
    values: dict[str, Any] = {"teacher": {"ring": 2}}
    put(values, "teacher.kind", "mae")
    assert values == {"teacher": {"kind": "mae"}}


@pytest.mark.parametrize("circuit", [{"kind": "hclt"}, {"kind": "patches"}])
def test_resolved_config_reads_back_the_same(circuit: dict[str, Any]) -> None:
    config = make_config({**BASE, "circuit": circuit, "tune": {}})
    text = yaml.safe_dump(config.model_dump())
    assert Config.model_validate(yaml.safe_load(text)) == config
    assert config.cluster.scope is not None and config.arms is not None


def test_text_has_kinds_of_its_own_by_default() -> None:
    config = make_config({"name": "a", "data": TEXT, "circuit": {"states": 9}})
    assert (config.teacher.kind, config.circuit.kind) == ("text", "hmm")
    assert config.data.stride == config.data.window == 32
    assert config.cluster.scope == "pooled" and config.arms == ["lvd", "random"]
    assert config.sizes == [None]
    several = make_config({"name": "a", "data": TEXT, "sweep": {"states": [4, 2]}})
    assert several.sizes == [4, 2]
    assert several.pseudocount_of(4) == several.train.pseudocount
    sweep = {"states": [4, 2], "pseudocounts": [0.5, 2.0]}
    each = make_config({"name": "a", "data": TEXT, "sweep": sweep})
    assert [each.pseudocount_of(size) for size in each.sizes] == [0.5, 2.0]
    for checked in (config, several):
        assert (
            Config.model_validate(yaml.safe_load(yaml.safe_dump(checked.model_dump()))) == checked
        )
    values: dict[str, Any] = {"data": dict(TEXT), "teacher": {"layer": 3}}
    put(values, "teacher.kind", "text")
    assert values["teacher"] == {"kind": "text", "layer": 3}
    put(values, "data.kind", "images")
    assert values["data"] == {"kind": "images"}


def test_loading_a_config_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, pyjuice_bridge.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_configs_of_the_project_check(path: Path) -> None:
    assert load_config(path).name.replace("-", "_") == path.stem
