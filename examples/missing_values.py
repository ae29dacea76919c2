# %% [markdown]
# # A table with missing values
#
# Missing values are summed out, in training and in questions: no imputation, no dropped rows. The
# table is made up: the weather of a day, with a third of all cells lost.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

rng = np.random.default_rng(0)
names = ("season", "sky", "rain", "wind", "umbrella", "ice cream")
n = 1000
season = rng.integers(0, 4, n)  # 0 is winter
sky = (
    rng.random(n)[:, None] > np.cumsum([[0.2, 0.3], [0.5, 0.3], [0.7, 0.2], [0.4, 0.3]], 1)[season]
).sum(1)
rain = rng.random(n) < np.array([0.02, 0.15, 0.75])[sky]
wind = rng.integers(0, 3, n)
umbrella = rng.random(n) < np.where(rain, 0.9 - 0.35 * wind, 0.05)
ice = rng.random(n) < np.where((season == 2) & ~rain, 0.7, 0.05)
whole = np.stack([season, sky, rain, wind, umbrella, ice], 1).astype(int)
lost = rng.random(whole.shape) < 1 / 3
table = np.where(lost, -1, whole)  # -1: missing
table[:4]

# %%
result = pj.run(
    {
        "name": "weather",
        "data": {"kind": "table", "name": "weather"},
        "circuit": {"latents": 4},
        "train": {"epochs": 15},
    },
    table=table,
    progress=False,
)
model = pj.load(result.path)
result

# %% [markdown]
# Any columns can be asked for given any others. How probable is rain, given what one sees?


# %%
def given(**seen):
    """Return p(rain) given some columns."""
    row = [seen.get(name, -1) for name in names]
    return model.marginals(np.array([row]), [2])[0, 0, 1]


questions = {
    "nothing": {},
    "a dark sky": {"sky": 2},
    "an umbrella": {"umbrella": 1},
    "an umbrella, strong wind": {"umbrella": 1, "wind": 2},
    "summer, ice cream": {"season": 2, "ice cream": 1},
}
answers = {name: given(**seen) for name, seen in questions.items()}
truth = {
    name: whole[
        np.all([whole[:, names.index(k)] == v for k, v in seen.items()] or [whole[:, 0] >= 0], 0), 2
    ].mean()
    for name, seen in questions.items()
}
figure, axis = plt.subplots(figsize=(7, 2.6))
at = np.arange(len(answers))
axis.barh(at - 0.2, list(answers.values()), 0.4, label="circuit, trained on 2/3 of the cells")
axis.barh(
    at + 0.2, list(truth.values()), 0.4, label="frequency in the whole table", color="tab:gray"
)
axis.set_yticks(at, list(answers))
axis.set(xlabel="p(rain | …)", xlim=(0, 1))
axis.invert_yaxis()
axis.legend(fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# Filling in: the likeliest value of every lost cell given the rest of its row, against the most
# frequent value of the column.

# %%
best = np.argmax(model.marginals(table), -1)
usual = np.array([np.bincount(column[column >= 0]).argmax() for column in table.T])
right = [(best == whole)[:, j][lost[:, j]].mean() for j in range(6)]
plain = [(usual == whole)[:, j][lost[:, j]].mean() for j in range(6)]
for name, circuit, column in zip(names, right, plain, strict=True):
    print(f"{name:<10} circuit {circuit:.0%}   most frequent {column:.0%}")
assert np.mean(right) > np.mean(plain)
