# %% [markdown]
# # Steering a language model
#
# An HMM distilled from a causal language model knows, at every step, how probable it is that
# given phrases will still appear. Multiplied into the model's next-token distribution, that makes
# it write them (GeLaTo, Ctrl-G). The model is a tiny GPT-2 trained here on a small grammar; any
# causal model of `transformers` works.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import pyjuice_bridge as pj

words = ["<bos>", "<eos>", ".", "the", "a", "cat", "dog", "bird", "sees", "hears", "follows", "and"]
number = {word: i for i, word in enumerate(words)}
rng = np.random.default_rng(0)


def text():
    """Return one or two clauses as ids."""
    clauses = []
    for _ in range(1 + int(rng.random() < 0.5)):
        who, what = (
            f"{rng.choice(['the', 'a'])} {rng.choice(['cat', 'dog', 'bird'])}" for _ in "12"
        )
        clauses.append(f"{who} {rng.choice(['sees', 'hears', 'follows'])} {what}")
    return [number[word] for word in ("<bos> " + " and ".join(clauses) + " . <eos>").split()]


rows = [text() for _ in range(512)]
length = max(map(len, rows))
ids = torch.tensor([row + [1] * (length - len(row)) for row in rows])

torch.manual_seed(0)
sizes = {"vocab_size": len(words), "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
writer = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))
optimizer = torch.optim.AdamW(writer.parameters(), lr=0.01)
for _ in range(60):
    batch = ids[torch.randint(len(ids), (64,))]
    logits = writer(batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
writer.eval()


def told(rows):
    """Print rows of ids as words."""
    for row in rows:
        print(" ".join(words[i] for i in row if i > 1))


prompt = torch.tensor([[0]])
settings = {"do_sample": True, "max_new_tokens": 14, "num_return_sequences": 5, "pad_token_id": 1}
told(writer.generate(prompt, attention_mask=torch.ones_like(prompt), **settings).tolist())

# %% [markdown]
# The HMM is counted from sequences that the model writes and from its states, then trained on the
# sequences.

# %%
hmm = pj.distill_language_model(
    writer, 12, sequences=600, length=14, epochs=10, out="runs/writer", progress=False
)
hmm

# %% [markdown]
# Two phrases are wanted in every text. By itself the model rarely writes both.

# %%
phrases = [[number[word] for word in phrase.split()] for phrase in ("hears a bird", "and the dog")]
wanted = pj.Constraint.all_of(phrases, tokens=14, eos=1)
print("by itself:", hmm.phrase_probability([[]], wanted))

processor = hmm.processor(wanted, prompt_length=1, skip=1)
mask = torch.ones_like(prompt)
steered = writer.generate(prompt, attention_mask=mask, logits_processor=[processor], **settings)
told(steered.tolist())

# %% [markdown]
# How often each phrase occurs in a hundred texts, written freely and steered:

# %%
names = ["hears a bird", "and the dog", "both"]
shares = {}
for label, processors in (
    ("free", []),
    ("steered", [hmm.processor(wanted, prompt_length=1, skip=1)]),
):
    many = {**settings, "num_return_sequences": 100}
    rows = writer.generate(prompt, attention_mask=mask, logits_processor=processors, **many)
    texts = [" ".join(words[i] for i in row) for row in rows.tolist()]
    has = np.array([[name in text for name in names[:2]] for text in texts])
    shares[label] = [*has.mean(0), has.all(1).mean()]

figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
for shift, (label, values) in zip((-0.2, 0.2), shares.items(), strict=True):
    axis.bar(np.arange(3) + shift, values, 0.4, label=label)
axis.set_xticks(range(3), names)
axis.set(ylabel="share of texts", ylim=(0, 1.02))
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
assert shares["steered"][2] > 0.9 > shares["free"][2]
