"""VQ-VAE-2: what its decoder sees, that its distributions and its bound are such, and training."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import tiny_runs
import torch

import pyjuice_bridge as pj
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import TeacherInputs
from pyjuice_bridge.teachers.vqvae import VqVaeSection
from pyjuice_bridge.teachers.vqvae_model import VQVAE, mixture_log_likelihood, mixture_mode
from pyjuice_bridge.teachers.vqvae_training import (
    VqVaeSettings,
    VqVaeTeacher,
    _used,
    train_vqvae,
)

SMALL = VqVaeSettings(
    patch=2, white=3, width=8, residual=4, blocks=1, dim=3, codes=6, epochs=3, batch=16
)


def images(count, side=4, channels=1, white=3, seed=0):
    return np.random.default_rng(seed).integers(
        0, white + 1, (count, side, side, channels), np.uint8
    )


def network(grid, patch, channels, decoder="independent", white=3):
    sizes = {"width": 8, "residual": 4, "blocks": 1, "dim": 3, "codes": 6}
    model = VQVAE(grid, patch, channels, white=white, decoder=decoder, **sizes)
    model.initialise(torch.Generator().manual_seed(0))
    for book in (model.top_book, model.bottom_book):
        book.codes.data.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def naive(maps, pixels, white):
    """Log-probability of one pixel, component by component, in float64."""
    channels, total = len(pixels), 0.0
    groups = maps.reshape(3, -1)
    logits = groups[:, 0]
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    x = 2 * pixels / white - 1
    for k in range(3):
        mean, scale = groups[k, 1 : 1 + channels], groups[k, 1 + channels : 1 + 2 * channels]
        mix, p = np.tanh(groups[k, 1 + 2 * channels :]), 1.0
        shifts = [[], [0], [1, 2]]
        for c in range(channels):
            m = mean[c] + sum(mix[j] * x[before] for before, j in enumerate(shifts[c]))
            s = np.exp(max(scale[c], -7.0))
            edges = [(x[c] - m + sign / white) / s for sign in (1, -1)]
            above, below = (1 / (1 + np.exp(-edge)) for edge in edges)
            p *= (1 if pixels[c] == white else above) - (0 if pixels[c] == 0 else below)
        total += share[k] * p
    return np.log(total)


@pytest.mark.parametrize(("channels", "white"), [(1, 16), (1, 1), (3, 3)])
def test_the_distribution_of_a_pixel(channels, white):
    rng = np.random.default_rng(channels)
    size = 3 * (1 + 2 * channels + channels * (channels - 1) // 2)
    maps = rng.normal(size=(size,)) * 1.5
    values = np.array(list(product(range(white + 1), repeat=channels)))
    pixels = torch.tensor(values / white, dtype=torch.float32)[:, :, None, None]
    wide = torch.tensor(maps, dtype=torch.float32)[None, :, None, None].expand(
        len(values), -1, 1, 1
    )
    found = mixture_log_likelihood(wide, pixels, white).numpy()
    np.testing.assert_allclose(found, [naive(maps, v, white) for v in values], rtol=1e-4, atol=1e-5)
    assert np.exp(found.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_mode_is_the_likeliest_pixel_of_the_likeliest_component(channels, seed):
    """With sharp components, of all pixels the nearest to the mode has the greatest probability."""
    rng = np.random.default_rng(seed)
    maps = rng.uniform(-0.6, 0.6, (3, 1 + 2 * channels + channels * (channels - 1) // 2))
    maps[:, 0] = rng.permutation([9.0, 0.0, 0.0])
    maps[:, 1 + channels : 1 + 2 * channels] = -4
    maps = maps.reshape(-1)
    found = mixture_mode(torch.from_numpy(maps).float().view(1, -1, 1, 1), channels)
    every = [np.array(p) for p in product(range(9), repeat=channels)]
    with np.errstate(divide="ignore"):
        best = every[int(np.argmax([naive(maps, p, 8) for p in every]))]
    assert np.abs(8 * found.flatten().numpy() - best).max() < 1.1


def test_very_sharp_distributions_stay_finite():
    maps = torch.zeros(2, 9, 1, 1)
    maps[:, 6:9] = -50.0
    pixels = torch.tensor([0.0, 0.5])[:, None, None, None]
    found = mixture_log_likelihood(maps, pixels, 2)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("decoder", "alone"), [("independent", True), ("convolutional", False)])
def test_what_a_decoder_sees(decoder, alone):
    model = network((4, 4), 2, 3, decoder)
    codes = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(2))
    other = codes.clone()
    other[:, :, 1, 2] += 1
    with torch.no_grad():
        changed = (model.decoder(codes) != model.decoder(other)).any(1)[0]
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 4:6] = True
    assert changed[inside].all() and (changed[~inside].any().item() is not alone)


@pytest.mark.parametrize(("grid", "patch"), [((4, 4), 2), ((7, 7), 4), ((2, 3), 8), ((3, 2), 3)])
@pytest.mark.parametrize("decoder", ["independent", "convolutional"])
def test_features_are_codes_of_the_two_books(grid, patch, decoder):
    model = network(grid, patch, 1, decoder)
    x = np.random.default_rng(0).integers(0, 4, (5, grid[0] * patch, grid[1] * patch, 1), np.uint8)
    settings = replace(SMALL, patch=patch, decoder=decoder)
    teacher = VqVaeTeacher(model, settings, [np.ones(6)] * 2)
    found = teacher.embed(x).reshape(5, *grid, 2, 3)
    for level, book in enumerate((model.top_book, model.bottom_book)):
        rows = found[..., level, :].reshape(-1, 1, 3)
        np.testing.assert_allclose(
            np.abs(rows - book.codes.detach().numpy()).sum(-1).min(1), 0, atol=1e-5
        )
    top = found[..., 0, :]
    for i, j in np.ndindex(*grid):
        np.testing.assert_array_equal(top[:, i, j], top[:, i // 2 * 2, j // 2 * 2])
    assert teacher.figures(x).bits > 0


def test_the_bound_is_one():
    """Probabilities of all images of 4 × 4 bits, each with its own codes, sum to at most one."""
    settings = replace(SMALL, white=1, epochs=2)
    every = np.unpackbits(np.arange(1 << 16, dtype=">u2").view(np.uint8)).reshape(-1, 4, 4, 1)
    bars = every[[0x0F0F, 0xF0F0, 0x00FF, 0x1111]]
    teacher = train_vqvae(np.tile(bars, (20, 1, 1, 1)), settings)
    log_p = np.empty(len(every))
    with torch.inference_mode():
        pixels = torch.tensor(every).permute(0, 3, 1, 2).float()
        codes, top, bottom, _ = teacher.model.encode(pixels)
        log_p = teacher.model.log_likelihood(codes, pixels).double().numpy()
    for count, ids in zip(teacher.counts, (top, bottom), strict=True):
        prior = np.log((count + 0.5) / (count + 0.5).sum())
        log_p += prior[ids.flatten(1).numpy()].sum(1)
    assert 0 < np.exp(log_p).sum() <= 1
    for i in (0x0F0F, 7):
        bits = -log_p[i] / np.log(2) / 16
        assert teacher.figures(every[i : i + 1]).bits == pytest.approx(bits, rel=1e-4)


def test_training_helps_and_uses_its_codes():
    x = load_dataset("digits", limit=500).train
    sizes = {"width": 32, "dim": 8, "codes": 32, "batch": 16, "step_size": 3e-3}
    settings = VqVaeSettings(patch=2, white=16, epochs=8, **sizes)
    untrained = replace(settings, epochs=1, step_size=1e-9)
    before, after = (train_vqvae(x, each).figures(x) for each in (untrained, settings))
    assert after.pixels < before.pixels - 0.3
    assert after.bits == after.pixels + after.codes and after.codes > 0
    assert after.used[1] >= 16 and 1 <= after.perplexity[1] <= after.used[1]
    assert str(after).startswith(f"at most {after.bits:.4f} bits/dim")


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    x, valid = images(40), images(9, seed=1)
    whole = train_vqvae(x, SMALL, valid=valid)
    path = tmp_path / "weights.pt"

    def kill(done, *_):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vqvae(x, SMALL, valid=valid, checkpoint=path, on_epoch=kill)
    epochs = []
    for _ in range(2):
        again = train_vqvae(
            x, SMALL, valid=valid, checkpoint=path, on_epoch=lambda done, *_: epochs.append(done)
        )
        np.testing.assert_array_equal(again.embed(x), whole.embed(x))
        assert again.describe() == whole.describe() and again.figures(valid) == whole.figures(valid)
    assert epochs == [3]
    with pytest.raises(UserError, match="a VQ-VAE-2 with other settings or images"):
        train_vqvae(x, replace(SMALL, seed=1), valid=valid, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not a readable checkpoint of a VQ-VAE-2"):
        train_vqvae(x, SMALL, valid=valid, checkpoint=path)


def test_the_best_epoch_on_validation_is_kept():
    """Dark images teach that images are dark: the longer, the worse for bright ones."""
    x, valid = images(64), 15 - images(16, seed=1)
    settings = replace(SMALL, white=15, epochs=6, step_size=1e-2)
    chosen, final = train_vqvae(x, settings, valid=valid), train_vqvae(x, settings)
    assert chosen.figures(valid).pixels < final.figures(valid).pixels - 0.1
    assert chosen.figures(x).pixels > final.figures(x).pixels + 0.1


def test_a_run_with_both_decoders(tmp_path):
    small = {"width": 8, "residual": 4, "dim": 3, "codes": 6, "epochs": 2}
    for decoder in ("independent", "convolutional"):
        section = {"kind": "vqvae2", "decoder": decoder, **small}
        config = tiny_runs.patch_config(arms=["lvd"], teacher=section)
        first = pj.run(config, images=tiny_runs.images(), out=tmp_path / decoder)
        assert "VQ-VAE-2 by itself: at most" in (first.path / "log.txt").read_text()
        again = pj.run(config, images=tiny_runs.images(), out=tmp_path / decoder)
        assert {name.split("-")[0] for name in again.reused} >= {"teacher", "embed", "clusters"}


def test_reconstructions_are_images_of_the_same_shape():
    x = images(30, seed=3)
    teacher = train_vqvae(x, replace(SMALL, epochs=40, width=16))
    found = teacher.reconstruct(x)
    assert found.shape == x.shape and found.dtype == np.uint8 and found.max() <= 3
    untrained = train_vqvae(x, replace(SMALL, epochs=1, step_size=1e-9)).reconstruct(x)
    errors = [np.abs(each.astype(int) - x).mean() for each in (found, untrained)]
    assert errors[0] < errors[1]


def test_refusals():
    section = VqVaeSection(kind="vqvae2")
    with pytest.raises(UserError, match="patches of 2 or more"):
        section.make(TeacherInputs(images(3), patch=1))
    with pytest.raises(UserError, match="do not tile"):
        section.make(TeacherInputs(images(3), patch=3))
    with pytest.raises(UserError, match="no images to train on"):
        section.make(TeacherInputs(images(0), patch=2))
    with pytest.raises(UserError, match=r"VQ-VAE-2: seed is 0\.5"):
        replace(SMALL, seed=0.5)
    teacher = train_vqvae(images(20), replace(SMALL, epochs=1))
    for wrong in (images(2, side=6), images(2, channels=3)):
        with pytest.raises(UserError, match=r"was trained on images \[4, 4, 1\]"):
            teacher.embed(wrong)
    assert _used(teacher.model, images(5), SMALL, "cpu")[0] > 0
