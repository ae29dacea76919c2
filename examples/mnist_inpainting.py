# %% [markdown]
# # MNIST inpainting
#
# Fill in hidden parts of images by exact draws. 1,000 images of MNIST and 8 latent values keep
# this page short; `experiments/mnist.yaml` trains the circuit of the README's picture.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

result = pj.run(
    {
        "name": "mnist",
        "data": {"name": "mnist5k", "limit": 1000},
        "cluster": {"points_per_centroid": 64, "iterations": 5},
        "circuit": {"kind": "hclt", "latents": 8},
        "train": {"epochs": 6},
        "arms": ["lvd"],
    },
    progress=False,
)
result

# %% [markdown]
# A mask is True where a pixel is hidden; every image may have its own.

# %%
model = pj.load(result.path)
images = pj.load_dataset("mnist5k").test[20:420:50]

rng = np.random.default_rng(0)
lower = np.zeros((28, 28), bool)
lower[14:] = True
squares = np.zeros((8, 28, 28), bool)
for mask, (top, left) in zip(squares, rng.integers(2, 14, (8, 2)), strict=True):
    mask[top : top + 12, left : left + 12] = True
noise = rng.random((8, 28, 28)) < 0.7

figure, axes = plt.subplots(7, 1, figsize=(8, 7.4))
axes[0].imshow(np.hstack(list(images[..., 0])), cmap="gray")
axes[0].set_title("images, then what the circuit saw and one draw of the rest", fontsize=10)
for number, hidden in enumerate((lower, squares, noise)):
    filled = model.inpaint(images, hidden, seed=number)
    seen = np.where(hidden, 90, images[..., 0])
    axes[2 * number + 1].imshow(np.hstack(list(seen)), cmap="gray", vmin=0, vmax=255)
    axes[2 * number + 2].imshow(np.hstack(list(filled[..., 0])), cmap="gray", vmin=0, vmax=255)
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# How sure is the circuit? The variance of every hidden pixel given the visible ones is exact too.

# %%
gaps = images.astype(np.int16)
gaps[:, lower] = -1
mean, variance = model.moments(gaps)
figure, axes = plt.subplots(2, 1, figsize=(8, 2.2))
for axis, values, title in zip(axes, (mean, np.sqrt(variance)), ("mean", "deviation"), strict=True):
    axis.imshow(np.hstack(list(values.reshape(8, 28, 28))), cmap="gray")
    axis.set_ylabel(title, rotation=0, ha="right", va="center")
    axis.set(xticks=[], yticks=[])
plt.show()
assert np.allclose(variance.reshape(8, 28, 28)[:, ~lower], 0, atol=1e-3)  # seen pixels are certain
