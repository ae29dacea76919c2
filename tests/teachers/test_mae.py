import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.mae_training import (
    MAESettings,
    MAETeacher,
    build,
    to_patches,
    train_mae,
)

SMALL = MAESettings(patch=2, hidden=16, mlp=32, heads=2, layers=(2, 1), epochs=3, batch=32)


@pytest.fixture(scope="module")
def digits():
    x = load_digits().images[:200] * 15
    return x.astype(np.uint8)[..., None]


def plain_encoder(model, tokens):
    """The encoder written out with softmax attention on one set of tokens [T, hidden]."""
    x = tokens
    for block in model.encoder:
        normed = block.norm1(x)
        query = block.query(normed)
        key, value = block.key_value(normed).chunk(2, -1)
        heads = []
        for q, k, v in zip(*(t.chunk(block.heads, -1) for t in (query, key, value)), strict=True):
            heads.append(torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v)
        x = x + block.out(torch.cat(heads, -1))
        x = x + block.down(functional.gelu(block.up(block.norm2(x))))
    return model.norm(x)


def initialised(settings, channels=1, grid=(4, 4)):
    model = build(grid, channels, settings)
    model.initialise(torch.Generator().manual_seed(3))
    return model


def test_features_are_the_encoders_tokens_of_each_neighbourhood(digits):
    model = initialised(SMALL)
    teacher = MAETeacher(model, SMALL)
    found = teacher.embed(digits[:2])
    assert found.shape == (2, 16, 16) and found.dtype == np.float32
    patches = torch.as_tensor(to_patches(digits[:2], 2))
    with torch.no_grad():
        for n in range(2):
            tokens = model.embed(patches[n]) + model.position
            for position in range(16):
                near = [
                    i
                    for i in range(16)
                    if max(abs(i // 4 - position // 4), abs(i % 4 - position % 4)) <= 1
                ]
                expected = plain_encoder(model, tokens[near])[near.index(position)]
                np.testing.assert_allclose(found[n, position], expected, atol=1e-5)


def test_a_feature_depends_on_its_neighbourhood_only(digits):
    teacher = MAETeacher(initialised(SMALL), SMALL)
    changed = digits[:1].copy()
    changed[0, 6:, 6:] = 255 - changed[0, 6:, 6:]
    differs = (teacher.embed(digits[:1]) != teacher.embed(changed))[0].any(-1).reshape(4, 4)
    expected = np.zeros((4, 4), bool)
    expected[2:, 2:] = True
    np.testing.assert_array_equal(differs, expected)


def test_the_loss_sees_visible_patches_and_scores_masked_ones():
    model = initialised(SMALL)
    patches = torch.rand(3, 16, 4, generator=torch.Generator().manual_seed(0))
    order = torch.stack(
        [torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    )
    loss = model.loss(patches, order, 6)
    with torch.no_grad():
        total = 0.0
        for n in range(3):
            shown, hidden = order[n, :6], order[n, 6:]
            seen = plain_encoder(model, (model.embed(patches[n]) + model.position)[shown])
            full = model.mask.repeat(16, 1)
            full[shown] = model.bridge(seen)
            full = full + model.decoder_position
            for block in model.decoder:
                full = block(full[None])[0]
            guess = model.head(model.decoder_norm(full))[hidden]
            target = patches[n, hidden]
            deviation = (target.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
            wanted = (target - target.mean(1, keepdim=True)) / deviation
            total += float((guess - wanted).square().mean()) / 3
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


def test_training_lowers_the_loss(digits):
    losses = []
    settings = replace(SMALL, epochs=15, step_size=3e-3)
    train_mae(digits, settings, on_epoch=lambda done, epochs, loss: losses.append(loss))
    assert len(losses) == 15
    assert np.mean(losses[-4:]) < 0.85 * losses[0]


def test_an_interrupted_run_ends_with_the_same_weights(digits, tmp_path):
    class KilledError(Exception):
        pass

    def kill(done, epochs, loss):
        if done == 2:
            raise KilledError

    path = tmp_path / "mae.pt"
    whole = train_mae(digits, SMALL)
    with pytest.raises(KilledError):
        train_mae(digits, SMALL, checkpoint=path, on_epoch=kill)
    epochs = []
    resumed = train_mae(
        digits, SMALL, checkpoint=path, on_epoch=lambda done, *_: epochs.append(done)
    )
    assert epochs == [3]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert whole.describe() == resumed.describe()
    again = train_mae(digits, SMALL, checkpoint=path, on_epoch=kill)
    np.testing.assert_array_equal(again.embed(digits[:3]), whole.embed(digits[:3]))


def test_a_checkpoint_that_finds_no_room_is_one_sentence(digits, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"mae.pt: cannot be written \(File too large\)"):
            train_mae(digits[:32], SMALL, checkpoint=tmp_path / "mae.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_global_random_state_plays_no_part(digits):
    settings = replace(SMALL, epochs=1)
    torch.manual_seed(1)
    first = train_mae(digits[:64], settings).describe()
    torch.manual_seed(2)
    assert train_mae(digits[:64], settings).describe() == first
    assert train_mae(digits[:64], replace(settings, seed=5)).describe() != first


def test_foreign_and_damaged_checkpoints_are_refused(digits, tmp_path):
    path = tmp_path / "mae.pt"
    settings = replace(SMALL, epochs=1)
    train_mae(digits[:64], settings, checkpoint=path)
    with pytest.raises(UserError, match="other settings or images"):
        train_mae(digits[64:128], settings, checkpoint=path)
    with pytest.raises(UserError, match="other settings or images"):
        train_mae(digits[:64], replace(settings, seed=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable checkpoint of an MAE"):
        train_mae(digits[:64], settings, checkpoint=path)
    with pytest.raises(UserError, match="cannot be written"):
        train_mae(digits[:64], settings, checkpoint=tmp_path / "nowhere" / "mae.pt")


def test_colour_and_other_sizes():
    x = np.random.default_rng(0).integers(256, size=(5, 4, 6, 3)).astype(np.uint8)
    teacher = train_mae(x, replace(SMALL, epochs=1))
    assert teacher.embed(x).shape == (5, 6, 16)
    with pytest.raises(UserError, match="2x3"):
        teacher.embed(np.zeros((1, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"mask_ratio": (0.5, 1.0)}, "mask_ratio"),
        ({"layers": (0, 1)}, "layers"),
        ({"batch": 0}, "batch"),
    ],
)
def test_refused_settings(change, words):
    with pytest.raises(UserError, match=words):
        replace(SMALL, **change)
