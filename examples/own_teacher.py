# %% [markdown]
# # Your own teacher
#
# A teacher is a class with one method, `embed`. It gives every position of an image a vector;
# k-means turns the vectors into values of latent variables. Here: patches of 2×2 pixels, and two
# teachers that know little.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj


class Gradients:
    """Mean of a patch, and how it changes along and across."""

    def embed(self, images):
        n, height, width, _ = images.shape
        tiles = images.reshape(n, height // 2, 2, width // 2, 2).astype(np.float32)
        down = tiles[:, :, 1] - tiles[:, :, 0]
        right = tiles[..., 1] - tiles[..., 0]
        parts = [tiles.mean((2, 4)), down.mean(-1), right.mean(2)]
        return np.stack(parts, -1).reshape(n, -1, 3)  # [N, positions, dim]


class Noise:
    """Nothing: the control that a teacher has to beat."""

    def embed(self, images):
        rng = np.random.default_rng(images.astype(np.int64).sum())
        return rng.normal(size=(len(images), 16, 3)).astype(np.float32)


phase = {"epochs": 2}
config = {
    "data": {"name": "digits"},
    "circuit": {"kind": "patches", "patch": 2, "latents": 8, "patch_latents": 4},
    "train": {"epochs": 8, "patch_training": phase, "latent_training": phase},
    "arms": ["lvd"],
}
results = {
    teacher.__name__: pj.run(
        {"name": teacher.__name__.lower(), **config}, teacher=teacher(), progress=False
    )
    for teacher in (Gradients, Noise)
}

# %%
figure, axis = plt.subplots(figsize=(5, 2))
figures = {name: result.results[0]["test"]["value"] for name, result in results.items()}
axis.barh(list(figures), list(figures.values()), color=["tab:blue", "tab:gray"])
axis.set(xlabel="test bits/dim (less is better)", xlim=(min(figures.values()) - 0.2, None))
plt.tight_layout()
plt.show()
figures

# %% [markdown]
# What the clusters are: real patches at one position, a column for each value of its latent
# variable.

# %%
folder = results["Gradients"].path
pictures = np.load(folder / "figures.npz")["clusters/examples"][1, :, :6, ..., 0]
strip = np.hstack(
    [np.vstack([np.pad(p, 1, constant_values=8) for p in value]) for value in pictures]
)
plt.figure(figsize=(5, 3.4))
plt.imshow(strip, cmap="gray", vmin=0, vmax=16)
plt.axis("off")
plt.show()
