"""What a notebook uses of a sweep: its DataFrames, and the sections and figures of its report."""

from __future__ import annotations

from bench.report import sections
from bench.report.html import Html
from bench.report.sweep_data import SweepData


class SweepReport(SweepData):
    """A sweep's DataFrames (see SweepData), with its report's sections and figures for display."""

    def show(self, section: str) -> Html:
        """A section of the report: see bench/report/sections.py."""
        return sections.render_section(self, section)

    def figure(self, name: str) -> Html:
        """A figure of the sweep: loss_curves, qualitative or comparison."""
        return sections.figure(self, name)
