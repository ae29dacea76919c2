"""``steer``: a causal language model that writes what it is asked to, by a hidden Markov model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyjuice_bridge.cli.options import DEVICE, JSON, SEED
from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    from pyjuice_bridge.query.text import TextModel
    from pyjuice_bridge.query.text_phrases import Constraint


@dataclass(frozen=True)
class _Writer:
    """A language model, and what every text that it writes begins with."""

    name: str
    revision: str | None
    prefix: list[int] | None


@click.command()
@click.argument("hmm", type=click.Path(path_type=Path))
@click.argument("prompt", default="")
@click.option(
    "--model",
    metavar="FOLDER|NAME",
    help="The language model, of transformers.  Default: the one that HMM's run was written by.",
)
@click.option("--phrase", "phrases", multiple=True, help="Must occur; may be given several times.")
@click.option("--any", "any_of", is_flag=True, help="One of the phrases is enough.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 65_536),
    default=32,
    show_default=True,
    help="New tokens, at most.",
)
@click.option("--at-least", type=click.IntRange(0), default=0, help="New tokens before the end.")
@click.option("--at-most", type=click.IntRange(0), help="New tokens before the end.")
@click.option("--n", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many.")
@click.option(
    "--beams",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Search with several beams instead of sampling.",
)
@click.option("--sample", is_flag=True, help="With --beams: sample them.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1000),
    default=1.0,
    show_default=True,
    help="Weight of HMM; 0 is the language model alone.",
)
@click.option("--bf16", is_flag=True, help="Keep HMM's tables in half the memory.")
@SEED
@DEVICE
@JSON
def steer(
    hmm: Path,
    prompt: str,
    model: str | None,
    phrases: tuple[str, ...],
    any_of: bool,
    tokens: int,
    at_least: int,
    at_most: int | None,
    n: int,
    beams: int,
    sample: bool,
    alpha: float,
    bf16: bool,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Continue PROMPT with a language model so that phrases occur, a line for every text.

    HMM is a run on what the language model wrote, one of its model files, or a folder of Ctrl-G.
    """
    import torch

    from pyjuice_bridge.query.draws import seed_of
    from pyjuice_bridge.query.model import load
    from pyjuice_bridge.teachers.text_model import load_model, resolve_precision

    if beams > 1 and n > beams:
        raise UserError(f"--n {n} texts need as many --beams; there are {beams}")
    if sample and beams == 1:
        raise UserError("--sample belongs to --beams; a single beam is always sampled")
    writer = _writer(hmm, model)
    opened = load(hmm, engine="torch", device=device)
    place = opened.engine.device
    head = load_model(
        writer.name,
        causal=True,
        device=place,
        precision=resolve_precision("auto", place),
        revision=writer.revision,
    )
    asked = _with_strings(opened.text, writer.name)
    asked = replace(asked, precision="bf16") if bf16 else asked
    constraint = _constraint(asked, phrases, any_of, tokens, at_least, at_most)
    prefix = _prefix(writer, head)
    given = asked.vocabulary.encode(prompt).tolist() if prompt.strip() else []
    if -1 in given:
        raise UserError("PROMPT must be a whole text, without [MASK]")
    ids = torch.tensor([[*prefix, *given]], device=place)
    _check_room(head, ids.shape[1] + tokens, writer.name)
    number = seed_of(seed)
    torch.manual_seed(number)
    steering = asked.processor(
        constraint, prompt_length=ids.shape[1], skip=len(prefix), alpha=alpha
    )
    sampled = sample or beams == 1
    written = head.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[steering],
        max_new_tokens=tokens,
        do_sample=sampled,
        num_beams=beams,
        num_return_sequences=n,
        eos_token_id=constraint.eos,
        pad_token_id=0 if constraint.eos is None else constraint.eos,
        **({"top_k": 0} if sampled else {}),
    )
    rows = [_until(row, constraint.eos) for row in written[:, ids.shape[1] :].tolist()]
    texts = [asked.vocabulary.decode(row) for row in rows]
    chance = float(asked.phrase_probability([given], constraint)[0])
    if as_json:
        answer = {
            "prompt": prompt,
            "texts": [{"text": text, "tokens": row} for text, row in zip(texts, rows, strict=True)],
            "phrases": list(phrases),
            "chance": chance,
            "alpha": alpha,
            "seed": number,
            "model": writer.name,
            "hmm": str(hmm),
            "device": place,
        }
        click.echo(json.dumps(answer))
        return
    for text in texts:
        click.echo(" ".join(text.split()))
    click.echo(f"seed {number}; by itself {100 * chance:.3g} % of the texts would do", err=True)


def _writer(hmm: Path, name: str | None) -> _Writer:
    """Return the language model that is meant, and how the HMM's run began its texts."""
    from pyjuice_bridge.domains.written import WrittenSection
    from pyjuice_bridge.runner.config import load_config

    folder = hmm if hmm.is_dir() else hmm.parent
    section: object = None
    if (folder / "config.yaml").is_file():
        section = load_config(folder / "config.yaml").data
    if isinstance(section, WrittenSection):
        return _Writer(name or section.name, None if name else section.revision, section.prompt)
    if name is None:
        raise UserError(f"{hmm} does not say which language model it is of; give --model")
    return _Writer(name, None, None)


def _with_strings(text: TextModel, source: str) -> TextModel:
    """Return the text model with the language model's strings; refuse those of another one."""
    from pyjuice_bridge.codecs.text import TextCodec
    from pyjuice_bridge.domains.written import vocabulary_of

    size = text.hmm.vocabulary_size
    found, codec = vocabulary_of(source, size), text.codec
    known = None if codec is None else codec.vocabulary
    if found is None and known is None:
        raise UserError(f"{source} has no tokenizer, which PROMPT and phrases are read with")
    if found is not None and known is not None and found.words != known.words:
        raise UserError(f"the HMM's tokens are not those of {source}; they must share a vocabulary")
    codec = codec or TextCodec(size, 1, 1)
    return replace(text, codec=replace(codec, vocabulary=found or known))


def _constraint(
    text: TextModel,
    phrases: tuple[str, ...],
    any_of: bool,
    tokens: int,
    at_least: int,
    at_most: int | None,
) -> Constraint:
    from pyjuice_bridge.query.text_phrases import Constraint

    groups = [text.spellings(phrase) for phrase in phrases]
    if any_of and groups:
        groups = [[ids for group in groups for ids in group]]
    end = None if text.codec is None else text.codec.end
    return Constraint.all_of(groups, tokens, eos=end, min_length=at_least, max_length=at_most)


def _prefix(writer: _Writer, model: Any) -> list[int]:
    """Return the ids before every text: the run's own, or the token that begins one."""
    from pyjuice_bridge.teachers.text_model import surroundings

    if writer.prefix is not None:
        return writer.prefix
    begin = surroundings(model, None, causal=True)[0]
    if not begin:
        raise UserError(f"{writer.name} has no token to begin a text with; use a run with a prompt")
    return begin


def _check_room(model: Any, length: int, name: str) -> None:
    from pyjuice_bridge.teachers.text_model import longest

    most = longest(model, None)
    if length > most:
        raise UserError(
            f"{name} reads {most:,} tokens at once, too few for PROMPT and --tokens, {length:,} "
            "together"
        )


def _until(row: list[int], end: int | None) -> list[int]:
    """Return the ids before the end of a text."""
    return row[: row.index(end)] if end in row else row
