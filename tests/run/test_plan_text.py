"""Plans of texts against runs on them, and of corpora that are not there."""

from pathlib import Path

import pytest
import tiny_text

import pyjuice_bridge as pj
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner import trials
from pyjuice_bridge.runner.config import make_config
from pyjuice_bridge.runner.plan import make_plan


def test_plan_of_a_text_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.txt").write_text("\n\n".join(tiny_text.documents(20)))
    data = {"kind": "text", "name": str(tmp_path / "x.txt"), "window": 6, "tokens": "words"}
    monkeypatch.setattr(trials, "_token_seconds", lambda teacher: 1.0)
    monkeypatch.setattr(trials, "_cluster_seconds", lambda *_: 0.5)
    both = tiny_text.config(tiny_text.save_bert(tmp_path / "bert"), data=data)
    (lvd, *_) = make_plan(make_config(both)).arms
    nowhere = make_plan(make_config(tiny_text.config(tmp_path / "none", data=data)))
    assert nowhere.arms[0].latent_seconds is None and "could not be tried" in nowhere.note
    config = tiny_text.config(tmp_path, data=data, arms=["random"])
    plan = make_plan(make_config(config))
    assert not (tmp_path / "runs").exists()
    run = pj.run(config, out=tmp_path / "runs" / "x")
    assert [(a.point, a.parameters) for a in plan.arms] == [
        (r["sweep"], r["parameters"]) for r in run.results
    ]
    row = run.results[0]
    assert (
        f"{row['tokens']['train']:,} training tokens, {row['vocabulary']:,} distinct" in plan.note
    )
    assert f"in {row['windows']['train']:,} windows of 6" in plan.note
    read = round(1.2 * (row["tokens"]["train"] + row["tokens"]["valid"]))  # words are pieces
    assert lvd.latent_seconds == read + 0.5
    for arm in plan.arms:
        assert arm.latent_seconds == 0
        assert arm.passes == 3 and arm.seconds > 0
        known = 3 * 4 * arm.parameters + 4 * 6 * row["windows"]["train"]
        assert known < arm.memory_bytes < known + 16 * 10_000


def test_wikitext_needs_no_files() -> None:
    data = {"kind": "text", "name": "wikitext2", "tokens": "words", "stride": 1, "vocabulary": 50}
    values = {"name": "x", "data": data, "circuit": {"states": 2}, "train": {"batch_size": 8}}
    plan = make_plan(make_config(values))
    assert "2,088,628 training tokens, 50 distinct, in 2,088,597 windows of 32" in plan.note
    assert [arm.parameters for arm in plan.arms] == [2 + 4 + 100] * 2
    few = {**data, "limit": 9}
    with pytest.raises(UserError, match=r"'data\.limit' is 9, less than one window of 32"):
        make_plan(make_config({**values, "data": few}))
