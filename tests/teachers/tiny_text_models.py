"""Tiny language models with random weights, saved in folders like real ones."""

import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "dog",
    "sat",
    "-",
    "##s",
    "##t",
]
WORDS += ["a", "b", "c", "##b", "##c", "un", "##known"]
VOCABULARY = len(WORDS)
BOS = 0


def save_bert(path, *, limit=16, dim=16):
    """A BERT of two layers that reads ``limit`` tokens at once, with its tokenizer."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=limit,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(path)
    path.mkdir(exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(path / "vocab.txt"), model_max_length=limit)
    tokenizer.save_pretrained(path)
    return path


def save_gpt2(path, *, limit=16, vocabulary=VOCABULARY, eos=None, scale=0.5):
    """A GPT-2 of two layers without a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=limit,
        bos_token_id=BOS,
        eos_token_id=eos,
        initializer_range=scale,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        GPT2LMHeadModel(config).save_pretrained(path)
    return path
