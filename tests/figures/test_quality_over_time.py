"""Validation PSNR against minutes of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.figures import quality_over_time, style

RECORDS = [
    {"step": 1, "step_time_ms": 30_000.0},
    {"step": 2, "step_time_ms": 30_000.0, "validation_psnr": 14.0},
    {"step": 3, "step_time_ms": 90_000.0},
    {"step": 4, "step_time_ms": 30_000.0, "validation_psnr": 16.0},
]


def test_time_is_that_of_the_steps_until_each_validation() -> None:
    assert quality_over_time.validations(RECORDS).tolist() == [[1.0, 14.0], [3.0, 16.0]]
    assert quality_over_time.validations(RECORDS[:1]).shape == (0, 2)


def test_seeds_are_averaged_as_far_as_all_have_come() -> None:
    slower = [{**record, "step_time_ms": 60_000.0, "validation_psnr": 15.0} for record in RECORDS[:2]]
    with style.style():
        figure = quality_over_time.draw({"a": [RECORDS, slower], "$b$": [RECORDS]})
    lines = {line.get_label(): np.array(line.get_xydata()).tolist() for line in figure.axes[0].get_lines()}
    assert lines["a"] == [[1.0, 14.5], [2.5, 15.5]]
    assert lines[r"\$b\$"] == [[1.0, 14.0], [3.0, 16.0]]


def test_one_line_marks_what_the_first_setting_came_to() -> None:
    with style.style():
        figure = quality_over_time.draw({"a": [RECORDS], "b": [RECORDS], "c": [RECORDS]})
        dotted = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[16.0, 16.0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["a: last"]


def test_a_sweep_that_does_not_validate_has_no_such_figure(finished_sweep: Path) -> None:
    assert not list((finished_sweep / "figures").glob("quality_over_time.*"))
