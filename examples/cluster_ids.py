# %% [markdown]
# # Given cluster ids
#
# Where you have the values of the latent variables already, say from a clustering of your own, no
# teacher is needed. Ids are integers [N, positions], one array per split, in the order of the
# run's splits.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

digits = pj.load_dataset("digits", seed=0)
Path("ids").mkdir(exist_ok=True)
for split in ("train", "valid", "test"):
    images = getattr(digits, split)[..., 0].astype(int)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    above, left = padded[:, :-2, 1:-1], padded[:, 1:-1, :-2]
    ids = 4 * (images >= 8) + 2 * (above >= 8) + (left >= 8)  # is it bright, and its neighbours?
    np.save(f"ids/{split}.npy", ids.reshape(len(ids), -1).astype(np.int32))

result = pj.run(
    {
        "name": "own-ids",
        "data": {"name": "digits"},
        "teacher": {"kind": "file", "assignments": "ids"},
        "circuit": {"kind": "hclt", "latents": 8},
        "train": {"epochs": 5},
    },
    progress=False,
)
result

# %% [markdown]
# After training, the circuit has its own opinion of the ids: the posterior of every latent given
# the image. Fine-tuning may have moved its meaning; here most posteriors still name the given id.

# %%
model = pj.load(result.path)
images = digits.test[:200]
posterior = model.posteriors(images)["z"]  # [200, 64, 8]
given = np.load("ids/test.npy")[:200]
agree = (posterior.argmax(-1) == given).mean(0).reshape(8, 8)

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
axes[0].imshow(images[3, ..., 0], cmap="gray")
axes[0].set_title("an image")
axes[1].imshow(given[3].reshape(8, 8), cmap="tab10", vmin=0, vmax=9)
axes[1].set_title("its given ids")
shown = axes[2].imshow(agree, cmap="viridis", vmin=0, vmax=1)
axes[2].set_title("images that agree")
figure.colorbar(shown, ax=axes[2])
for axis in axes:
    axis.axis("off")
plt.show()
print(f"{agree.mean():.0%} of all latents")
