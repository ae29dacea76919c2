"""The report of a run on text, from files written by hand."""

import json

import numpy as np
import pytest
import yaml
from test_report_page import Page, assert_nothing_is_loaded_or_run, drawn

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import BITS, PERPLEXITY, measure_of
from pyjuice_bridge.report import write_report
from pyjuice_bridge.report.curves import sweep_chart
from pyjuice_bridge.report.run_dir import read_run
from pyjuice_bridge.report.words import outcome

VALUES = {("lvd", 4): 30.25, ("random", 4): 30.0, ("lvd", 8): 20.0, ("random", 8): 25.0}
SECTIONS = [
    "results", "sweep", "curves", "bound", "states", "infill", "transitions", "samples",
    "definitions", "config", "provenance",
]  # fmt: skip


def rows(values=VALUES):
    return [
        {
            "model": arm,
            "sweep": {"circuit.states": states},
            "engine": "torch",
            "device": "cpu",
            "parameters": 10 * states,
            **{
                split: {"value": value + i, "unit": "perplexity"}
                for i, split in enumerate(("test", "valid", "train"))
            },
            "seconds": 1.0,
            "seed": 0,
            "token": "word pieces",
            "window": 32,
            "stride": 1,
            "joined": True,
            "vocabulary": 30522,
            "tokens": {"train": 1000, "valid": 10, "test": 10},
        }
        for (arm, states), value in values.items()
    ]


def lines():
    return "".join(
        json.dumps(
            {
                "arm": arm,
                "sweep": {"circuit.states": states},
                "stage": "train",
                "valid": value + 2 - i,
                "unit": "perplexity",
                "total_seconds": i + 1.0,
            }
        )
        + "\n"
        for (arm, states), value in VALUES.items()
        for i in range(2)
    )


def examples(evil="x"):
    state = {"state": 3, "share": 0.25, "likely": [["the", 0.5]], "typical": [[evil, 0.1]]}
    arm = {"count": 8, "samples": ["one text", evil], "states": [state]}
    answers = {"lvd": {"sampled": "sat", "viterbi": evil}}
    gap = {"before": "the cat", "hidden": "slept", "after": "on it", "answers": answers}
    return {"arms": {"lvd": arm, "random": arm}, "infill": [gap]}


@pytest.fixture
def run(tmp_path):
    config = {"name": "words", "data": {"kind": "text", "name": "leads"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "results.json").write_text(json.dumps(rows()))
    (tmp_path / "metrics.jsonl").write_text(lines())
    bounds = [
        {"stage": "counting", "sweep": {"circuit.states": n}, "bound": 90.0, "marginal": 40.0 + n}
        for n in (4, 8)
    ]
    (tmp_path / "bound.json").write_text(json.dumps(bounds))
    (tmp_path / "text.json").write_text(json.dumps(examples()))
    matrix = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.savez(tmp_path / "figures.npz", **{"transitions/lvd": matrix, "transitions/random": matrix})
    return tmp_path


def read(run_dir):
    html = write_report(run_dir).read_text(encoding="utf-8")
    page = Page(html)
    assert_nothing_is_loaded_or_run(html, page)
    return html, page


def test_sections_figures_and_definition(run):
    html, page = read(run)
    assert page.sections == SECTIONS and "absent" not in html.split("</style>")[1]
    assert [arm for arm, _ in page.rows] == ["lvd", "random", "lvd", "random"]
    assert [numbers[3] for _, numbers in page.rows] == ["30.25", "30.0", "20.0", "25.0"]
    said = " ".join(page.text["results"].split())
    assert (
        "Perplexity (exp(−Σ log p / number of word pieces) over windows of 32 word pieces at a "
        "stride of 1, documents joined, no context across windows, vocabulary 30,522)"
    ) in said
    assert "LVD, 8 states" in said and "Random start, 4 states" in said
    assert len(page.sources()) == 2
    assert "bits" not in html.split("</style>")[1]
    assert "4 states" in page.text["curves"] and "8 states" in page.text["bound"]
    assert "slept" in page.text["infill"] and "25.00 %" in page.text["states"]
    assert len(page.ids) == len(set(page.ids))


def test_outcome_compares_the_best_of_each_arm_and_every_size(run):
    assert outcome(read_run(run).results, "leads") == (
        "LVD with 8 states is best: perplexity 20.00 on the test windows of leads, 5.00 (20.0 %) "
        "below the random start with 8 states. LVD is ahead at 1 of 2 points of the sweep."
    )
    one = rows({("lvd", 8): 20.0})
    (run / "results.json").write_text(json.dumps(one))
    assert outcome(read_run(run).results, None) == (
        "LVD with 8 states reaches perplexity 20.00 on the test windows."
    )


@pytest.mark.parametrize(
    "missing", ["results.json", "metrics.jsonl", "bound.json", "text.json", "figures.npz"]
)
def test_a_partial_run_still_gives_a_whole_page(run, missing):
    (run / missing).unlink()
    html, page = read(run)
    kept = [s for s in SECTIONS if s != "sweep" or missing != "results.json"]
    assert page.sections == kept
    assert html.count('class="absent"') >= 1


def test_hostile_words_stay_text(run):
    evil = "<script>alert(1)</script>$\\frac{\"'><img src=x onerror=alert(1)>"
    (run / "text.json").write_text(json.dumps(examples(evil)))
    html, page = read(run)
    assert "<script" not in html
    for section in ("states", "infill", "samples"):
        assert evil in page.text[section]


@pytest.mark.parametrize(
    "content", [b"[", b"[]", b"\xff", b'{"arms": {}}', b'{"arms": {"lvd": {}}, "infill": []}']
)
def test_damaged_examples_are_named(run, content):
    (run / "text.json").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.json: damaged"):
        write_report(run)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.zeros(3, np.uint8)])
def test_damaged_pictures_are_named(run, matrix):
    np.savez(run / "figures.npz", **{"transitions/lvd": matrix})
    with pytest.raises(UserError, match="array transitions/lvd should be uint8"):
        write_report(run)


def test_chart_of_a_sweep_draws_every_arm_at_its_values(run):
    results = read_run(run).results
    svg = sweep_chart(results, ["lvd", "random"], PERPLEXITY, "test", "circuit.states", ident="s")
    for colour, ends in (("--arm-0", (30.25, 20.0)), ("--arm-1", (30.0, 25.0))):
        points = drawn(svg, colour)
        assert len(points) == 2 and points[0, 0] < points[1, 0]
        # A higher figure is higher up: SVG counts from the top.
        assert points[0, 1] < points[1, 1] and ends[0] > ends[1]
    assert "test perplexity" in svg and ">states<" in svg


def test_chart_of_a_grid_draws_the_best_on_validation_at_every_value(run):
    grid = {(4, 0.1): (3, 9), (4, 1.0): (2, 8), (8, 0.1): (1, 7), (8, 1.0): (4, 5)}
    (row, *_) = rows()
    lines = [
        {
            **row,
            "sweep": {"circuit.states": states, "train.pseudocount": pseudocount},
            "valid": {"value": float(valid), "unit": "perplexity"},
            "test": {"value": float(test), "unit": "perplexity"},
        }
        for (states, pseudocount), (valid, test) in grid.items()
    ]
    (run / "results.json").write_text(json.dumps(lines))
    results = read_run(run).results
    for name, wanted in (("circuit.states", [8, 7]), ("train.pseudocount", [7, 8])):
        svg = sweep_chart(results, ["lvd"], PERPLEXITY, "test", name, ident="s")
        assert len(drawn(svg, "--arm-0")) == 2
        assert f">{wanted[-1]}.00<" in svg
    assert not sweep_chart(results, ["lvd"], PERPLEXITY, "test", "teacher.source", ident="s")
    html, page = read(run)
    assert "Against states" in html and "Against pseudocount" in html
    assert "4 states, pseudocount 0.1" in page.text["results"]


def test_a_run_from_before_sweeps_had_fields_is_read(run):
    old = [{**row, "states": row["sweep"]["circuit.states"]} for row in rows()]
    for row in old:
        del row["sweep"]
    (run / "results.json").write_text(json.dumps(old))
    assert [r.point for r in read_run(run).results][:2] == [{"circuit.states": 4}] * 2


def test_measures():
    assert BITS.of(np.log(2) * 3) == pytest.approx(3)
    assert PERPLEXITY.of(np.log(7)) == pytest.approx(7)
    assert BITS.phrase(1.23456) == "1.2346 bits/dim" and BITS.text(None) == "–"
    assert PERPLEXITY.phrase(512.304) == "perplexity 512.30"
    assert measure_of("perplexity") is PERPLEXITY and measure_of("bits/dim") is BITS
    assert measure_of("nats").phrase(2.0) == "2.0000 nats"
