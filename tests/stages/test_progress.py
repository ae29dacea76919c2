"""What a run says while it works, with a clock that the tests set."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyjuice_bridge.stages import progress
from pyjuice_bridge.stages.progress import Reporter, TimeLeft, pass_line


class Clock:
    """Stands where the module reads the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return "NOW"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def spoken(clock: Clock, passes: range) -> list[str]:
    """Ten pieces of ten seconds each, after ten minutes of compilation."""
    output = io.StringIO()
    with Reporter(Console(file=output, width=200)) as reporter, reporter.task("x", passes) as tick:
        clock.now += 600
        for done in range(1, 11):
            tick(done, 10)
            clock.now += 10
    return output.getvalue().splitlines()


def test_time_left_leaves_out_what_comes_before_the_first_piece(clock: Clock) -> None:
    said = spoken(clock, range(0))
    # The first piece took who knows how long, so nothing is predicted from it.
    assert said[:2] == ["x: 10 %", "x: 30 %, about 1 min 10 s left"]
    assert said[-1] == "x: 90 %, about 10 s left"


def test_a_training_has_one_time_left_which_is_that_of_its_lines(clock: Clock) -> None:
    assert all("left" not in line for line in spoken(clock, range(0, 5)))


@dataclass(frozen=True)
class Training:
    passes: int
    work: float


def test_time_of_training_leaves_out_the_first_pass() -> None:
    small, large = Training(4, 1.0), Training(3, 3.0)
    left = TimeLeft([small, large])
    assert left.text() == ""
    left.add(small, 1000.0, True)
    assert left.text() == ""
    left.add(small, 20.0, True)
    # Two more of the small one and three of the large one, at 20 s for a unit of work.
    assert left.text() == ", about 3 min 40 s left"
    left.add(small, 20.0, True)
    left.add(small, 500.0, False)
    assert left.text() == ", about 3 min 00 s left"
    for _ in range(3):
        left.add(large, 60.0, True)
    assert left.text() == ""


def test_live_lines_are_for_terminals_alone() -> None:
    for output, live in ((Terminal(), True), (io.StringIO(), False)):
        console = Console(file=output, force_terminal=True, width=100)
        with Reporter(console) as reporter, reporter.task("work") as tick:
            tick(1, 2)
        assert ("work" in output.getvalue()) == live
        assert ("\x1b[?25l" in output.getvalue()) == live


def test_the_log_gets_every_line_and_the_console_details_if_asked(
    tmp_path: Path, clock: Clock
) -> None:
    for details in (False, True):
        output, log = io.StringIO(), tmp_path / f"{details}.txt"
        reporter = Reporter(Console(file=output, width=100), log, details=details)
        reporter.say("said")
        reporter.note("noted\ntwice")
        assert log.read_text() == "NOW said\nNOW noted\nNOW twice\n"
        assert output.getvalue() == ("said\nnoted\ntwice\n" if details else "said\n")


@pytest.mark.parametrize("place", ["gone/log.txt", "/dev/full"])
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, place: str) -> None:
    output = io.StringIO()
    reporter = Reporter(Console(file=output, width=100), tmp_path / place)
    reporter.say("said")
    reporter.note("noted")
    assert output.getvalue() == "said\n"


def test_the_log_takes_any_text(tmp_path: Path) -> None:
    Reporter(None, tmp_path / "log.txt").say("r\udcff × 語")
    assert (tmp_path / "log.txt").read_text("utf-8").endswith("r? × 語\n")


def test_progress_of_scripts_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(progress.progress_console()) as reporter:
        reporter.say("said " * 60)
    captured = capsys.readouterr()
    assert captured.err == f"{'said ' * 60}\n" and captured.out == ""


def test_watching_ends_with_the_block() -> None:
    reporter, seen = Reporter(), list[Any]()
    with reporter.task("x") as tick:
        with reporter.watched(lambda: seen.append(1)):
            tick(1, 3)
            with reporter.watched(lambda: seen.append(2)):
                tick(2, 3)
            tick(2, 3)
        tick(3, 3)
    assert seen == [1, 2, 1]


@pytest.mark.parametrize("point", [{}, {"circuit.states": 1024, "train.pseudocount": 0.05}])
@pytest.mark.parametrize(
    ("arm", "stage"), [("random", "train"), ("lvd", "fine-tune"), ("lvd", "counting")]
)
def test_pass_lines_fit_80_columns(arm: str, stage: str, point: dict[str, Any]) -> None:
    row = {
        "arm": arm,
        **({"sweep": point} if point else {}),
        "stage": stage,
        "passes": 100,
        "valid": 512.3,
        "unit": "perplexity",
        "total_seconds": 725.0,
    }
    line = pass_line(row) + ", about 1 h 02 min left"
    assert len(line) <= 80
    assert f"pass 100 ({stage}): 512.30, 12 min 05 s, about" in line
