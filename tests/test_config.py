"""Configs: each mistake is one exact sentence; what is read back is what was meant."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from pyjuice_bridge.config.parse import parse_yaml
from pyjuice_bridge.config.read import put
from pyjuice_bridge.config.sweep import label_of
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import Config, default_kinds, load_config, make_config
from pyjuice_bridge.sections import Section

BASE: dict[str, Any] = {"name": "a", "data": {"name": "digits"}}
PATCHES = {"kind": "patches"}

TEXT: dict[str, Any] = {"name": "x.txt", "kind": "text"}
HMM = {"kind": "hmm"}

STORE = "'artifacts' is the folder of stored stages; choose another name"

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
        {"circuit": {"leaves": {"family": "gausian"}}},
        "'circuit.leaves.family' is 'gausian'; choose categorical, smooth, gaussian, "
        "logistic or binomial; did you mean 'gaussian'?",
    ),
    (
        {"circuit": {"leaves": {"family": "logistic", "bandwidth": 2}}},
        "'circuit.leaves.bandwidth' belongs to 'circuit.leaves.family: smooth'",
    ),
    (
        {"circuit": {"leaves": {"family": "smooth", "bandwidth": 0}}},
        "'circuit.leaves.bandwidth' is 0, but must be more than 0.0",
    ),
    (
        {"data": TEXT, "circuit": {"kind": "hmm", "leaves": {"family": "smooth"}}},
        "'circuit.leaves' belongs to 'circuit.kind: hclt'",
    ),
    (
        {"teacher": {"kind": "mea"}},
        "'teacher.kind' is 'mea'; choose pixels, mae, vqvae2, vit_mae, efficientnet, file, object, "
        "text, columns or writer; did you mean 'mae'?",
    ),
    (
        {"teacher": {"kind": None}},
        "'teacher.kind' is missing; choose pixels, mae, vqvae2, vit_mae, efficientnet, file, "
        "object, text, columns or writer",
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
        "'train.patch_training' belongs to 'circuit.kind: patches or growing' only",
    ),
    (
        {"arms": ["lvdd"]},
        "'arms.0' is 'lvdd'; choose lvd, random, hclt or start; did you mean 'lvd'?",
    ),
    ({"arms": ["lvd", "lvd"]}, "'arms': the same arm is listed twice"),
    ({"arms": []}, "'arms' is empty; give at least 1"),
    (
        {"arms": ["hclt"]},
        "the arm 'hclt' belongs to 'circuit.kind: patches, growing, region_graph or rat_spn' only",
    ),
    ({"seed": True}, "'seed' is true, but must be a whole number"),
    ({"seed": 1.5}, "'seed' is 1.5, but must be a whole number"),
    ({"name": "a b"}, "'name' is 'a b'; use letters, digits, '.', '_' and '-' only"),
    ({"data": {}}, "'data.name' is missing"),
    ({"data": {"nam": "x"}}, "there is no field 'data.nam'; did you mean 'name'?"),
    ({"tune": {"pseudocounts": ["a"]}}, "'tune.pseudocounts.0' is 'a', but must be a number"),
    ({"data": {"name": "x", "window": 8}}, "'data.window' belongs to 'data.kind: text'"),
    (
        {"data": {**TEXT, "kind": "txt"}},
        "'data.kind' is 'txt'; choose images, text, table or written; did you mean 'text'?",
    ),
    (
        {"circuit": HMM},
        "'circuit.kind: hmm' models text, written, table, but 'data.kind' is 'images'; use 'hclt'",
    ),
    (
        {"teacher": {"kind": "text"}},
        "'teacher.kind: text' reads text, but 'data.kind' is 'images'; use 'pixels'",
    ),
    ({"sweep": {}}, "'sweep': names no field to vary, as in 'circuit.latents: [16, 32]'"),
    ({"sweep": []}, "'sweep' is empty; give at least 1"),
    (
        {"sweep": {"seed": [1, 2]}},
        "'sweep': 'seed' is no field of circuit, train, cluster or teacher, which are what a sweep "
        "varies, as in 'circuit.latents: [16, 32]'",
    ),
    ({"sweep": {"circuit.latents": []}}, "'sweep': 'circuit.latents' lists no values"),
    (
        {"sweep": {"circuit.latnets": [4]}},
        "at '4 latnets' of 'sweep': there is no field 'circuit.latnets'; did you mean 'latents'?",
    ),
    (
        {"sweep": {"train.pseudocount": [0.1, 1.0]}, "tune": {}},
        "'sweep.train.pseudocount' is what 'tune' chooses; leave out one of the two",
    ),
    (
        {"sweep": {"train.epochs": list(range(1, 99)), "circuit.latents": [2, 3]}},
        "'sweep': has 196 points, but may have at most 100",
    ),
    (
        {"sweep": [{"circuit.latents": [2]}, {"train.epochs": [3]}]},
        "'sweep': all its grids must vary the same fields, in the same order",
    ),
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
    (
        {"data": TEXT, "arms": ["hclt"]},
        "the arm 'hclt' belongs to 'circuit.kind: patches, growing, region_graph or rat_spn' only",
    ),
    (
        {"data": TEXT, "train": {"epochs": 1}},
        "'train.epochs' is 1, but counting is one pass; use at least 2",
    ),
    (
        {"data": TEXT, "sweep": {"circuit.states": [4, 4]}},
        "'sweep': the point '4 states' is listed twice",
    ),
    (
        {"data": TEXT, "sweep": {"states": [4, 8], "pseudocounts": [0.1]}},
        "'sweep': the field 'states' is now 'circuit.states'",
    ),
    (
        {"data": TEXT, "sweep": {"circuit": {"states": [1]}}},
        "at '1 states' of 'sweep': 'circuit.states' is 1, but must be at least 2",
    ),
    (
        {"data": TEXT, "circuit": {"latents": 4}},
        "'circuit.latents' belongs to 'circuit.kind: hclt'",
    ),
    ({1: 2}, "'1' is not a text, but names a field"),
    ({"name": "Artifacts"}, f"'name': {STORE}"),
    ({"name": "a" * 101}, "'name': has 101 characters, but may have at most 100"),
    (
        {"train": {"epochs": 10**9}},
        "'train.epochs' is 1000000000, but must be at most 100,000: every pass reads all of the "
        "data",
    ),
    (
        {"train": {"epochs": 10**5000}},
        "'train.epochs' is a number of more than 60 digits, but must be at most 100,000: every "
        "pass reads all of the data",
    ),
    (
        {"cluster": {"restarts": 10**9}},
        "'cluster.restarts' is 1000000000, but must be at most 1,000: each one reads all the "
        "points",
    ),
    (
        {"circuit": PATCHES, "teacher": {"kind": "mae", "layers": [10**9, 1]}},
        "'teacher.layers.0' is 1000000000, but must be at most 100: deeper autoencoders do not "
        "train",
    ),
    (
        {"circuit": PATCHES, "teacher": {"kind": "mae", "layers": [1]}},
        "'teacher.layers' has 1 entry; give at least 2",
    ),
    (
        {"circuit": {"latents": 10**9}},
        "'circuit.latents' is 1000000000, but must be at most 65,536: tables have the square of "
        "it in entries",
    ),
    (
        {"report": {"samples": 10**9}},
        "'report.samples' is 1000000000, but must be at most 10,000: all of them are shown on one "
        "page",
    ),
    (
        {"train": {"pseudocount": 1e38}},
        "'train.pseudocount' is 1e+38, but must be at most 1,000,000,000: it would outweigh any "
        "data",
    ),
    ({"tune": {"step_sizes": [0.1] * 101}}, "'tune.step_sizes' has 101 entries; give at most 100"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), MESSAGES, ids=lambda v: v if isinstance(v, str) else None
)
def test_each_mistake_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_config({**BASE, **change}, "c.yaml")
    assert str(caught.value) == f"c.yaml: {sentence}"


YAML_MISTAKES = [
    ("name: a\n b: c\n", ", line 2: not valid YAML: mapping values are not allowed here"),
    ("name: a\nname: b\n", ", line 2: not valid YAML: the field 'name' is given twice"),
    ("- 1\n", ": a config is a list of 'field: value' lines, starting with 'name:'"),
    (
        "name: !!python/object/apply:os.getcwd []\n",
        ", line 1: not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
    ("a: !!bool abc\n", ", line 1: not valid YAML: 'abc' is not true or false"),
    ("a: !!int [1]\n", ", line 1: not valid YAML: a section or list is not a whole number"),
    ("a: !!map 1\n", ", line 1: not valid YAML: this is not a section"),
    ("a: !!seq 1\n", ", line 1: not valid YAML: this is not a list"),
    ('a:\n b: "\\UFFFFFFFF"\n', ", line 2: not valid YAML: there is no such character"),
    (
        'a: "\\ud800"\n',
        ", line 1: not valid YAML: a text holds half a character (a lone surrogate)",
    ),
    (
        "a: &x {b: 1}\nc:\n  <<: *x\n",
        ", line 3: not valid YAML: '<<' is not a field; write out what it would take over",
    ),
    ("? [a]\n: 1\n", ", line 1: not valid YAML: the name of a field must be a text"),
    ("a: &a [*a]\n", ", line 1: not valid YAML: a section cannot hold itself"),
    ("a: &a 1\nb: &a 2\n", ", line 2: not valid YAML: the anchor 'a' is given twice"),
    (
        "a: 1\n---\na: 2\n",
        ", line 2: not valid YAML: expected a single document in the stream, but found another "
        "document",
    ),
    (f"a: {'9' * 5000}\n", ", line 1: not valid YAML: a number of 5,000 digits is too long"),
    (
        "[" * 500 + "]" * 500,
        ", line 1: not valid YAML: sections are nested more than 32 deep",
    ),
    ("a: [" + "1," * 20_000 + "]", ", line 1: not valid YAML: there are more than 10,000 values"),
    ("a" * 200_000, ": has more than 100,000 characters; is it a config?"),
]


@pytest.mark.parametrize(("text", "sentence"), YAML_MISTAKES)
def test_yaml_mistakes_name_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}{sentence}"


YAML_VALUES = [
    ("010", 10),
    ("0o17", 15),
    ("0x1F", 31),
    ("-7", -7),
    ("1:30", "1:30"),
    ("1_000", "1_000"),
    ("2020-12-31", "2020-12-31"),
    ("yes", "yes"),
    ("true", True),
    ("'true'", "true"),
    ("1e-3", 0.001),
    ("1.", 1.0),
    (".5", 0.5),
    ("-.inf", -float("inf")),
    ("~", None),
    ("", None),
    ("!!str 3", "3"),
    ("!!float 3", 3.0),
]


@pytest.mark.parametrize(("text", "value"), YAML_VALUES)
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}", "c.yaml")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("levels", [1, 2, 3, 9, 40])
def test_aliases_count_as_what_they_stand_for(levels: int) -> None:
    """Nine values, then lists of nine aliases of the line before: 9 ** levels values and more."""
    names = [f"n{level}" for level in range(levels)]
    lines = [f"{names[0]}: &{names[0]} [{','.join('x' * 9)}]"]
    for before, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
    # Of a line: its name, and a list of nine times what the line before stands for.
    size, total = 1, 1
    for _ in range(levels):
        size = 1 + 9 * size
        total += 1 + size
    if total <= 10_000:
        last = parse_yaml("\n".join(lines), "c.yaml")[names[-1]]
        assert str(last).count("x") == 9**levels
    else:
        with pytest.raises(UserError, match="more than 10,000 values"):
            parse_yaml("\n".join(lines), "c.yaml")


def test_a_config_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match="more than 100,000 characters"):
        load_config("/dev/zero")


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
    put(values, "circuit.kind", "patches", default_kinds)
    assert values == {"circuit": {"kind": "patches"}}
    put(values, "circuit.latents", 4, default_kinds)
    put(values, "circuit.kind", "patches", default_kinds)
    assert values == {"circuit": {"kind": "patches", "latents": 4}}
    values = {"teacher": {"ring": 2}, "train": {"step_size": {"start": 0.3, "kind": "linear"}}}
    put(values, "teacher.kind", "pixels", default_kinds)
    assert values["teacher"] == {"kind": "pixels", "ring": 2}
    put(values, "train.step_size.kind", "cosine", default_kinds)
    assert values["train"]["step_size"] == {"start": 0.3, "kind": "cosine"}


def test_a_section_without_a_kind_is_of_the_default_kind() -> None:
    config = make_config({**BASE, "circuit": {"latents": 4}, "teacher": {"ring": 1}})
    explicit = {"circuit": {"kind": "hclt", "latents": 4}, "teacher": {"kind": "pixels", "ring": 1}}
    assert config == make_config({**BASE, **explicit})
    values: dict[str, Any] = {"teacher": {"ring": 2}}
    put(values, "teacher.kind", "mae", default_kinds)
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
    assert config.points == (({}, config),)
    grid = {"circuit.states": [4, 2], "train": {"pseudocount": [0.5, 2.0]}}
    several = make_config({"name": "a", "data": TEXT, "sweep": grid})
    found = [(own.circuit.states, own.train.pseudocount) for _, own in several.points]
    assert found == [(4, 0.5), (4, 2.0), (2, 0.5), (2, 2.0)]
    labels = [label_of(point) for point, _ in several.points]
    assert labels == ["4-0.5", "4-2.0", "2-0.5", "2-2.0"]
    pairs = [{"circuit.states": [n], "train.pseudocount": [n / 8]} for n in (4, 2)]
    listed = make_config({"name": "a", "data": TEXT, "sweep": pairs})
    assert [own.train.pseudocount for _, own in listed.points] == [0.5, 0.25]
    for checked in (config, several, listed):
        assert (
            Config.model_validate(yaml.safe_load(yaml.safe_dump(checked.model_dump()))) == checked
        )
    values: dict[str, Any] = {"data": dict(TEXT), "teacher": {"layer": 3}}
    put(values, "teacher.kind", "text", default_kinds)
    assert values["teacher"] == {"kind": "text", "layer": 3}
    put(values, "data.kind", "images", default_kinds)
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


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from sections(section)


def takes_whole_numbers(annotation: Any) -> bool:
    return annotation is int or any(map(takes_whole_numbers, get_args(annotation)))


def test_every_whole_number_has_bounds() -> None:
    """Read off the sections, so that no field added later is without them."""
    checked = 0
    for section in sections():
        for name, field in section.model_fields.items():
            if takes_whole_numbers(field.annotation):
                listed = "list" in str(field.annotation)
                for number in (10**400, -(10**400)):
                    with pytest.raises(ValidationError) as caught:
                        section.__pydantic_validator__.validate_assignment(
                            section.model_construct(), name, [number] * 2 if listed else number
                        )
                    kinds = {error["type"] for error in caught.value.errors()}
                    bounds = {"at_most", "less_than", "less_than_equal", "greater_than_equal"}
                    assert kinds <= bounds, (section, name, kinds)
                checked += 1
    assert checked > 30
