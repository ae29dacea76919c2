# %% [markdown]
# # A circuit by hand
#
# A circuit is a list of layers of blocks. This one is a mixture of three components over two
# variables with 17 values each: inputs, a product that multiplies them component by component,
# and a sum that mixes the components.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

rng = np.random.default_rng(0)
leaves = pj.InputLayer(
    variables=np.array([0, 1], np.int32),
    groups=np.array([0, 1], np.int32),  # equal groups would share parameters
    params=rng.dirichlet(np.ones(17), (2, 3)),  # [groups, width, categories]
)
both = pj.ProductLayer(
    "hadamard", offsets=np.array([0, 2], np.int32), children=np.array([0, 1], np.int32)
)
mixture = pj.SumLayer(
    offsets=np.array([0, 1], np.int32),
    children=np.array([2], np.int32),  # blocks are numbered through all layers
    groups=np.array([0], np.int32),
    weights=np.full((1, 1, 3), 1 / 3),  # [groups, width out, width in]
)
latents = {"component": np.array([2], np.int32)}
circuit = pj.Circuit(2, (leaves, both, mixture), np.array([3], np.int32), latents=latents)
pj.check(circuit)  # says what is wrong, if anything
circuit

# %% [markdown]
# Fit it to two neighbouring pixels of the digits by full-batch EM. The likelihood never falls.

# %%
pair = pj.load_dataset("digits").train.reshape(-1, 64)[:, [27, 28]].astype(int)
engine = pj.get_engine("torch", "cpu")
options = pj.FitOptions(optimizer="full_em", epochs=30, pseudocount=0)
fitted = engine.fit(circuit, pair, options)

curve = [epoch.train for epoch in fitted.history]
grid = np.stack(np.meshgrid(range(17), range(17), indexing="ij"), -1).reshape(-1, 2)
seen = np.zeros((17, 17))
np.add.at(seen, tuple(pair.T), 1 / len(pair))
learnt = np.exp(engine.log_likelihood(fitted.circuit, grid)).reshape(17, 17)

figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
axes[0].plot(curve)
axes[0].set(xlabel="pass", title="mean log-likelihood, nats")
for axis, table, title in zip(axes[1:], (seen, learnt), ("data", "circuit"), strict=True):
    axis.imshow(np.sqrt(table), cmap="viridis", origin="lower", vmin=0, vmax=0.3)
    axis.set(title=title, xlabel="pixel 28", ylabel="pixel 27")
plt.show()
assert np.isclose(learnt.sum(), 1, atol=1e-4)
assert np.all(np.diff(curve) > -1e-6)

# %% [markdown]
# The posterior of the component, for three rows:

# %%
model = pj.Model(fitted.circuit, engine)
np.round(model.posteriors(pair[:3])["component"][:, 0], 3)

# %% [markdown]
# ## From Julia
#
# Circuit files are the same for both languages. Where Julia is set up (`python -m pyjuice_bridge
# julia setup`), the Julia engine trains the same circuit to the same numbers:

# %%
model.save("by-hand.h5")
if pj.julia_state().usable:
    julia = pj.get_engine("julia", "cpu")
    again = julia.fit(circuit, pair, options)
    print("largest difference:", np.abs(np.subtract([e.train for e in again.history], curve)).max())
else:
    print("Julia is not set up here")

# %% [markdown]
# In a Julia notebook the file opens with the package JuiceBridge, and `fit` does the same:
#
# ```julia
# using JuiceBridge
# using JuiceBridge: fit
# circuit = load_circuit("by-hand.h5")
# ```
