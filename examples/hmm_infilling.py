# %% [markdown]
# # Filling gaps in text
#
# A hidden Markov model over words fills any number of gaps jointly and exactly, in one pass
# forward and one back. The text is that of a small grammar, so that one sees what was learnt.

# %%
import matplotlib.pyplot as plt
import numpy as np

import pyjuice_bridge as pj

rng = np.random.default_rng(0)
words = {
    "D": ["the", "a"],
    "N": ["cat", "dog", "bird"],
    "V": ["sees", "hears"],
    "A": ["small", "old"],
}


def sentence():
    """Determiner, perhaps an adjective, noun, verb, and the same again."""
    kinds = [
        kind for _ in range(2) for kind in (["D", "A", "N"] if rng.random() < 0.4 else ["D", "N"])
    ]
    kinds.insert(kinds.index("N") + 1, "V")
    return " ".join([*(str(rng.choice(words[kind])) for kind in kinds), "."])


texts = [sentence() for _ in range(400)]
texts[:3]

# %%
result = pj.run(
    {
        "name": "grammar",
        "data": {"kind": "text", "name": "sentences", "tokens": "words", "window": 8},
        "circuit": {"states": 10},
        "train": {"epochs": 40, "batch_size": 64},
        "arms": ["random"],  # `lvd` takes states from a language model
    },
    text=texts,
    progress=False,
)
text = pj.load(result.path).text
result

# %%
for gapped in ("the [MASK] cat [MASK] a dog .", "a [MASK] hears [MASK] [MASK] bird ."):
    print(gapped)
    for filled in text.infill(gapped, n=3, seed=0):
        print("   ", filled)
    print("    likeliest:", text.viterbi(gapped)[0])

# %% [markdown]
# The distribution of a missing word given words **on both sides**, which a left-to-right model
# does not have:

# %%
gapped = "the [MASK] cat sees a dog ."
p = text.token_distribution(gapped, 1).ravel()
order = np.argsort(-p)[:8]
figure, axis = plt.subplots(figsize=(6, 2.4))
axis.bar([text.vocabulary.words[i] for i in order], p[order])
axis.set(title=gapped, ylabel="probability")
plt.show()

# %% [markdown]
# What the states stand for: the words that each emits.

# %%
hmm = text.hmm
emission = np.asarray(hmm.emission)
figure, axis = plt.subplots(figsize=(7, 4))
axis.imshow(emission, cmap="Greys", vmin=0, vmax=1)
axis.set_xticks(range(emission.shape[1]), text.vocabulary.words[: emission.shape[1]], rotation=90)
axis.set(ylabel="state")
plt.show()
