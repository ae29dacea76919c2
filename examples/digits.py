# %% [markdown]
# # Digits in 30 seconds
#
# Train a circuit on scikit-learn's 8×8 digits with the help of a teacher, look at what it draws,
# and ask it exact questions.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

result = pj.run(
    {
        "name": "digits",
        "data": {"name": "digits"},
        "circuit": {"kind": "hclt", "latents": 8},
        "train": {"epochs": 6},
    },
    progress=False,
)
result

# %% [markdown]
# Two arms were trained with equal effort: `lvd`, whose latent values were first read off clusters
# of the teacher's features, and `random`, the same graph from a random start. Fewer bits are
# better. The run's folder has a report with curves and pictures; `pj.load` opens its model.

# %%
model = pj.load(result.path)
model


# %%
def show(rows, labels):
    """Show rows of images, one label a row."""
    _, axes = plt.subplots(len(rows), 1, figsize=(7, 0.9 * len(rows)))
    for axis, row, label in zip(axes, rows, labels, strict=True):
        axis.imshow(np.hstack(list(np.squeeze(row))), cmap="gray", vmin=0, vmax=16)
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    plt.show()


digits = pj.load_dataset("digits")
images = digits.test[:8]
show([images, model.sample(8, seed=0)], ["real", "drawn"])

# %% [markdown]
# A circuit sums missing pixels out exactly. Hide the lower half: the probability of the upper
# half alone, a draw of the rest given it, and the mean of every hidden pixel, are one or two
# passes each.

# %%
hidden = np.zeros((8, 8), bool)
hidden[4:] = True
gaps = images.astype(np.int16)
gaps[:, hidden] = -1  # missing

filled = model.inpaint(images, hidden, seed=0)
mean, _ = model.moments(gaps)
seen = np.where(hidden[..., None], 0, images)
rows = [images, seen, filled, mean.reshape(images.shape)]
show(rows, ["real", "seen", "drawn", "mean"])

print(model.log_likelihood(images)[:3])  # nats
print(model.log_likelihood(gaps)[:3])  # of the upper half: never less
assert (filled[:, ~hidden] == images[:, ~hidden]).all()
