import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import BITS
from pyjuice_bridge.report import write_report
from pyjuice_bridge.report.curves import bound_chart, learning_curves
from pyjuice_bridge.report.run_dir import Epoch, StageBound, read_run
from pyjuice_bridge.report.words import bytes_text, impossible, outcome, seconds_text

VOID = {"meta", "br", "img", "hr", "input", "link"}
SECTIONS = [
    "results", "curves", "bound", "samples", "inpaintings", "clusters",
    "definitions", "config", "provenance",
]  # fmt: skip
ARMS = {"lvd": 1.18923456, "random": 1.22634567, "hclt": 1.23145678}


class Page(HTMLParser):
    """Collects what the tests ask about and refuses tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows = [], [], [], []
        self.sections, self.ids, self.text = [], [], {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "section":
            self.sections.append(given["id"])
            self.text[given["id"]] = ""
        if tag == "tr" and "data-arm" in given:
            self.rows.append((given["data-arm"], []))
        if tag == "data":
            self.rows[-1][1].append(given["value"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.sections:
            self.text[self.sections[-1]] += data

    def sources(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]


def results(arms=None, **changes):
    return [
        {
            "model": arm,
            "engine": "torch",
            "device": "cpu",
            "parameters": 1000 + i,
            "train": {"value": value - 0.03, "unit": "bits/dim"},
            "valid": {"value": value - 0.01, "unit": "bits/dim"},
            "test": {"value": value, "unit": "bits/dim"},
            "seconds": 10.5 + i,
            "peak_memory_bytes": 2**28 + i,
            "seed": 7,
            "command": "python -m pyjuice_bridge run digits.yaml",
            "machine": "two cores",
            "passes": 3,
        }
        | changes
        for i, (arm, value) in enumerate((arms or ARMS).items())
    ]


def metrics(arms=None):
    return "".join(
        json.dumps(
            {
                "arm": arm,
                "stage": "latent_training" if epoch == 0 else "fine_tune",
                "epoch": epoch,
                "step_size": 0.1,
                "train": value,
                "valid": value + 0.3 / (epoch + 1),
                "seconds": 2.0,
                "total_seconds": 2.0 * (epoch + 1),
            }
        )
        + "\n"
        for arm, value in (arms or ARMS).items()
        for epoch in range(3)
    )


def figures(arms=ARMS, mask="squares"):
    digits = load_digits().images[:24].astype(np.uint8)[..., None]
    lower = np.zeros((8, 8), bool)
    lower[4:] = True
    squares = np.zeros((6, 8, 8), bool)
    squares[:, 2:4, 2:4] = True
    arrays = {
        "real": digits[:9],
        "inpaint/original": digits[:6],
        "inpaint/masks/lower_half": lower,
        f"inpaint/masks/{mask}": squares,
        "clusters/examples": np.zeros((2, 3, 4, 4, 4, 1), np.uint8),
        "clusters/positions": np.array([0, 3], np.int32),
    }
    for arm in arms:
        arrays[f"samples/{arm}"] = digits[9:18]
        arrays[f"inpaint/{arm}/lower_half"] = digits[6:12]
        arrays[f"inpaint/{arm}/{mask}"] = digits[6:12]
    return arrays


@pytest.fixture
def run(tmp_path):
    config = {"name": "digits-run", "seed": 7, "data": {"name": "digits"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "results.json").write_text(json.dumps(results()))
    (tmp_path / "metrics.jsonl").write_text(metrics())
    bounds = [
        {"stage": "counting", "bound": 1.5, "marginal": 1.4},
        {"stage": "fine_tune", "bound": 1.6, "marginal": None},
    ]
    (tmp_path / "bound.json").write_text(json.dumps(bounds))
    np.savez(tmp_path / "figures.npz", **figures())
    return tmp_path


def read(run_dir):
    html = write_report(run_dir).read_text(encoding="utf-8")
    return html, Page(html)


def assert_nothing_is_loaded_or_run(html, page):
    loading = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in loading:
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:60])
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import", html)


def test_the_table_holds_the_numbers_of_results_json(run):
    _, page = read(run)
    assert [arm for arm, _ in page.rows] == list(ARMS)
    for (_, numbers), row in zip(page.rows, results(), strict=True):
        bits = [row[split]["value"] for split in ("train", "valid", "test")]
        expected = [row["parameters"], *bits, row["seconds"], row["peak_memory_bytes"]]
        assert [float(n) for n in numbers] == expected
    for shown in ("1,002", "1.1892", "1.2263", "1.2315", "256 MiB", "10 s"):
        assert shown in page.text["results"]


def test_the_sections_stand_in_order_and_say_the_outcome(run):
    html, page = read(run)
    assert page.sections == SECTIONS
    assert (
        "LVD is best: 1.1892 bits/dim on the test images of digits, 0.0371 (3.0 %) below the "
        "random start and 0.0422 (3.4 %) below the plain HCLT." in html
    )
    assert "absent" not in [v for _, name, v in page.attributes if name == "class"]
    assert "0.1000" in page.text["bound"]
    assert "two cores" in page.text["provenance"]
    assert "name: digits-run" in page.text["config"]


def test_the_page_is_self_contained(run):
    html, page = read(run)
    assert_nothing_is_loaded_or_run(html, page)
    assert "://" not in html
    assert len(page.ids) == len(set(page.ids))
    targets = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', html)
    assert targets
    assert {a or b for a, b in targets} <= set(page.ids)


def test_every_image_decodes_to_the_arrays(run):
    _, page = read(run)
    sheets = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGBA"))
        for source in page.sources()
    ]
    assert len(sheets) == 4 + 2 * 5 + 2 * 3
    arrays = figures()
    assert np.array_equal(sheets[0][:8, :8, 0], arrays["real"][0, ..., 0] * 255.0 // 16)
    assert np.array_equal(sheets[1][9:17, 18:26, 0], arrays["samples/lvd"][5, ..., 0] * 255.0 // 16)
    saw = sheets[5]
    assert (saw[4:8, :8, :3] == saw[4, 0, :3]).all()
    assert np.array_equal(saw[:4, :8, 0], arrays["inpaint/original"][0, :4, :, 0] * 255.0 // 16)
    assert "The brightest value in these images, 16, is shown as white." in page.text["samples"]


def test_two_pages_of_one_run_are_equal_and_leave_nothing_behind(run):
    before = {p.name for p in run.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert {p.name for p in run.iterdir()} == before | {"report.html"}


def test_hostile_names_stay_text(run):
    evil = "<script>alert(1)</script>$\\frac{\"'><img src=x onerror=alert(1)>"
    in_file = evil.replace("/", "")
    arms = {evil: 1.0, "lvd": 1.1}
    (run / "config.yaml").write_text(yaml.safe_dump({"name": evil, "data": evil}))
    (run / "results.json").write_text(
        json.dumps(results(arms, engine=evil, command={evil: [evil]}, **{evil: evil}))
    )
    (run / "metrics.jsonl").write_text(metrics(arms))
    bound = [{"stage": evil, "bound": 1.5, "marginal": 1.2}]
    (run / "bound.json").write_text(json.dumps(bound))
    np.savez(run / "figures.npz", **figures([in_file], mask=in_file))
    html, page = read(run)
    assert_nothing_is_loaded_or_run(html, page)
    assert page.rows[0][0] == evil
    assert evil in page.text["results"]
    assert in_file in page.text["inpaintings"]
    assert "<script" not in html


@pytest.mark.parametrize(
    "missing",
    [
        {"config.yaml"},
        {"results.json"},
        {"metrics.jsonl"},
        {"bound.json"},
        {"figures.npz"},
        {"config.yaml", "results.json", "metrics.jsonl", "bound.json", "figures.npz"},
    ],
)
def test_a_partial_run_still_gives_a_whole_page(run, missing):
    for name in missing:
        (run / name).unlink()
    html, page = read(run)
    assert page.sections == SECTIONS
    assert_nothing_is_loaded_or_run(html, page)
    assert html.count('class="absent"') >= len(missing)


@pytest.mark.parametrize("prefix", ["inpaint/", "samples/", "clusters/", "inpaint/lvd", "real"])
def test_figures_may_lack_any_part(run, prefix):
    arrays = {name: array for name, array in figures().items() if not name.startswith(prefix)}
    np.savez(run / "figures.npz", **arrays)
    _, page = read(run)
    whole = 4 + 2 * 5 + 2 * 3
    lost = {"inpaint/": 10, "samples/": 4, "clusters/": 6, "inpaint/lvd": 2, "real": 1}
    assert len(page.sources()) == whole - lost[prefix]


def test_figures_that_are_null_or_not_finite_show_as_dashes(run):
    rows = results({"lvd": 1.0, "random": float("nan")})
    rows[0] |= {"test": None, "peak_memory_bytes": None, "parameters": None, "seconds": None}
    (run / "results.json").write_text(json.dumps(rows))
    html, page = read(run)
    assert page.rows[0][1] == ["0.97", "0.99"]
    assert "nan" not in page.text["results"].lower()
    assert "no final figures for all of its arms" in html


def test_a_half_written_last_line_of_metrics_is_ignored(run):
    file = run / "metrics.jsonl"
    whole = read_run(run).epochs
    for tail in (b'{"arm": "lvd", "sta', b'{"arm": "lvd"}', b"\xff\xfe", b"12"):
        file.write_bytes(metrics().encode() + tail)
        assert read_run(run).epochs == whole
    assert [e.passes for e in whole if e.arm == "random"] == [1.0, 2.0, 3.0]


def test_passes_are_taken_from_the_lines_that_give_them(run):
    lines = [json.loads(line) for line in metrics({"lvd": 1.0}).splitlines()]
    lines[1]["passes"] = 6
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [e.passes for e in read_run(run).epochs] == [1.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"- a list", "config.yaml: expected a mapping"),
        ("config.yaml", b"a: [", "config.yaml: not valid YAML"),
        ("config.yaml", b"\xff\xfe", "config.yaml: cannot be read"),
        ("config.yaml", b"!!python/object/apply:os.getcwd []", "config.yaml: not valid YAML"),
        ("results.json", b'{"model": 1}', "results.json: damaged"),
        ("results.json", b'[{"engine": "torch"}]', "results.json: damaged"),
        ("results.json", b"[", "results.json: damaged"),
        ("bound.json", b'[{"stage": "a"}]', "bound.json: damaged"),
        ("metrics.jsonl", b"{\n" + metrics().encode(), "metrics.jsonl: line 1 is damaged"),
        ("figures.npz", b"PK\x03\x04 not a zip", "figures.npz: damaged"),
    ],
)
def test_a_damaged_file_is_named(run, file, content, message):
    (run / file).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("file", ["metrics.jsonl", "results.json", "figures.npz"])
def test_a_file_that_cannot_be_read_is_named(run, file):
    (run / file).unlink()
    (run / file).mkdir()
    with pytest.raises(UserError, match=rf"{file}: (cannot be read|damaged) .*Is a directory"):
        write_report(run)


def test_damaged_or_pickled_figures_are_refused(run):
    file = run / "figures.npz"
    content = bytearray(file.read_bytes())
    content[200] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"figures\.npz: damaged"):
        write_report(run)
    np.savez(file, real=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"figures\.npz: damaged"):
        write_report(run)
    np.save(file.with_suffix(".npy"), np.zeros(3))
    file.with_suffix(".npy").replace(file)
    with pytest.raises(UserError, match=r"figures\.npz: damaged"):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("real", np.zeros((3, 8, 8), np.uint8)),
        ("samples/lvd", np.zeros((3, 8, 8, 1))),
        ("inpaint/original", np.zeros((8, 8), np.uint8)),
        ("inpaint/masks/lower_half", np.ones((8, 8), np.uint8)),
        ("inpaint/masks/lower_half", np.ones((4, 4), bool)),
        ("inpaint/random/squares", np.zeros((2, 8, 8, 1), np.uint8)),
        ("clusters/examples", np.zeros((3, 8, 8, 1), np.uint8)),
        ("clusters/examples", np.zeros((2, 3, 0, 4, 4, 1), np.uint8)),
        ("clusters/positions", np.zeros(5, np.int32)),
    ],
)
def test_a_figure_of_the_wrong_shape_is_named(run, name, array):
    np.savez(run / "figures.npz", **(figures() | {name: array}))
    with pytest.raises(UserError, match=rf"figures\.npz: array {name} should be .*, found "):
        write_report(run)


def write_results(run, rows):
    (run / "results.json").write_text(json.dumps(rows))
    return read_run(run).results


def test_the_outcome_is_honest(run):
    worse = write_results(run, results({"lvd": 1.3, "random": 1.2}))
    assert outcome(worse, None) == (
        "LVD is not the best arm here: the random start reaches 1.2000 bits/dim on the test "
        "images, 0.1000 (7.7 %) below LVD."
    )
    tied = write_results(run, results({"lvd": 1.2, "hclt": 1.200001}))
    assert outcome(tied, "x").endswith("of x, equal to 4 decimals with the plain HCLT.")
    rows = results({"lvd": 1.3, "random": 1.2})
    rows[1]["test"] = {"value": None, "unit": "bits/dim", "impossible": 2, "rows": 50}
    lost = write_results(run, rows)
    assert outcome(lost, "x") == (
        "LVD reaches 1.3000 bits/dim on the test images of x. The random start has no figure on "
        "the test images of x: 2 of 50 images have probability 0."
    )
    assert impossible(lost[1]) == ["Random start on test: 2 of 50 images have probability 0"]
    alone = write_results(run, results({"mine": 1.2}, test=None))
    assert outcome(alone, None) == "mine reaches 1.1900 bits/dim on the validation images."
    assert outcome((), "x") == "This run has no final figures for all of its arms yet."


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (4.214, "4.21 s"), (38.4, "38 s"), (59.7, "1 min 00 s"), (3725.0, "1 h 02 min")],
)
def test_seconds_are_readable(value, text):
    assert seconds_text(value) == text


def test_bytes_are_readable():
    assert [bytes_text(n) for n in (None, 2**20, 3 * 2**29)] == ["–", "1 MiB", "1.50 GiB"]


def drawn(svg, colour):
    """Points of the first line drawn in a colour of the style sheet, in drawing units."""
    for path in ElementTree.fromstring(svg).iter("path"):
        style = path.get("style", "")
        if f"stroke: var({colour})" in style and "fill: none" in style:
            numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d"))
            return np.array(numbers, float)
    raise AssertionError(f"no line in {colour}")


@pytest.mark.parametrize("against", ["seconds", "passes"])
def test_the_curves_run_through_the_data(against):
    rng = np.random.default_rng(1)
    bits = np.sort(rng.uniform(1.0, 1.1, (2, 6)))[:, ::-1]
    epochs = [
        Epoch(arm, "fine", float(i + 1), 3.0 * (i + 1) ** 1.5, bits[a, i])
        for a, arm in enumerate(("lvd", "$x$ & <b>"))
        for i in range(6)
    ] + [Epoch("lvd", "fine", 7.0, 99.0, None)]
    svg, cropped = learning_curves(epochs, ["lvd", "$x$ & <b>"], BITS, against=against, ident="a")
    assert not cropped
    lines = [drawn(svg, f"--arm-{a}") for a in range(2)]
    x = np.array([getattr(e, {"seconds": "total_seconds"}.get(against, against)) for e in epochs])
    horizontal, vertical = np.concatenate(lines).T
    for data, drawing in ((x[:12], horizontal), (-bits.ravel(), vertical)):
        slope, offset = np.polyfit(data, drawing, 1)
        assert slope > 0
        assert np.allclose(slope * data + offset, drawing, atol=1e-3)
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert "$x$ & <b>" in words
    assert f"{bits[0, -1]:.4f}" in words


def test_a_high_start_does_not_flatten_the_curves():
    epochs = [
        Epoch(arm, "fine", float(i + 1), float(i), end + 5.0 * 0.3**i)
        for arm, end in (("lvd", 1.1), ("random", 1.2))
        for i in range(12)
    ]
    svg, cropped = learning_curves(epochs, ["lvd", "random"], BITS, against="passes", ident="a")
    assert cropped
    ends = [drawn(svg, f"--arm-{a}")[-1, 1] for a in range(2)]
    assert ends[0] - ends[1] > 20


def test_the_bound_chart_names_every_stage():
    bounds = [StageBound("latent_training", 1.5, 1.25), StageBound("fine_tune", 1.5, None)]
    svg = bound_chart(bounds, BITS, ident="b")
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert "latent training" in words
    assert "fine tune" in words
    assert np.ptp(drawn(svg, "--arm-0")[:, 0]) > 100


def test_importing_the_report_loads_neither_matplotlib_nor_jinja():
    code = (
        "import sys, pyjuice_bridge.report as r\n"
        "sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_best_pass_of_the_last_stage_is_marked(run):
    html, page = read(run)
    lines = [json.loads(line) for line in metrics({"lvd": 1.0}).splitlines()]
    lines[1]["valid"], lines[2]["valid"] = 1.05, 1.2
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "a star the pass whose circuit is kept" in page.text["curves"]
    epochs = read_run(run).epochs
    svg, _ = learning_curves(epochs, ["lvd"], BITS, against="passes", ident="a")
    (star,) = [e for e in ElementTree.fromstring(svg).iter() if e.get("id") == "a-best_0"]
    place = next(e for e in star.iter() if e.tag.endswith("use"))
    curve = drawn(svg, "--arm-0")
    assert [float(place.get(axis)) for axis in "xy"] == pytest.approx(curve[1], abs=0.1)
    assert html.count("-best_") == 2 * len(ARMS)


def test_the_start_does_not_stretch_the_axis_of_the_bound():
    trained = [StageBound("patches", 1.6, 1.4), StageBound("fine_tune", 1.5, 1.3)]
    svg = bound_chart([StageBound("start", 9.0, 8.0), *trained], BITS, ident="b")
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert "8.0000 – 9.0000 →" in words
    assert "→" not in "".join(
        ElementTree.fromstring(bound_chart(trained, BITS, ident="b")).itertext()
    )


def test_the_config_is_folded_and_leaves_out_what_is_not_set(run):
    config = {"name": "a", "tune": None, "data": {"name": "digits", "root": None, "valid": 0}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    html, page = read(run)
    assert "<details>" in html and "open" not in re.findall(r"<details[^>]*>", html)[0]
    (shown,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert yaml.safe_load(shown) == {"name": "a", "data": {"name": "digits", "valid": 0}}
    assert "null" not in page.text["config"]


def test_sheets_of_samples_fill_half_a_desktop(run):
    arrays = figures()
    for name in ("real", *(f"samples/{arm}" for arm in ARMS)):
        arrays[name] = np.zeros((25, 28, 28, 1), np.uint8)
    np.savez(run / "figures.npz", **arrays)
    html, _ = read(run)
    section = html[html.index('id="samples"') : html.index('id="inpaintings"')]
    assert set(re.findall(r'width="(\d+)"', section)) == {str(3 * (5 * 29 - 1))}


def test_locators_show_where_strips_are_from(run):
    arrays = figures()
    marks = np.zeros((2, 8, 8), bool)
    marks[0, 2, 5] = marks[1, 7, 0] = True
    arrays |= {"clusters/mean": np.full((8, 8, 1), 9, np.uint8), "clusters/marks": marks}
    np.savez(run / "figures.npz", **arrays)
    html, _ = read(run)
    assert "Where position 3 is" in html
    sources = re.findall(r'class="located"><img src="data:image/png;base64,([^"]+)"', html)
    for source, mark in zip(sources, marks, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB"))
        assert (np.ptp(pixels, axis=2) > 100).tolist() == mark.tolist()
        assert (np.ptp(pixels[~mark], axis=1) == 0).all()  # the rest is grey
