"""Protocols are found by the name of their file; unknown ones are refused; a metric needs one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import protocols
from bench.common.errors import UserError
from bench.evaluation import metrics

COPY = """
from dataclasses import replace

from bench.protocols.per_image_white import PROTOCOL as WHITE

PROTOCOL = replace(WHITE, name="per_image_test", version=3, background="black")
"""


@pytest.mark.parametrize("name", protocols.names())
def test_each_file_is_its_protocol(name: str) -> None:
    protocol = protocols.get(name)
    assert protocol.name == name and protocol.key == f"{name}@{protocol.version}"
    metric_names = [metric.name for metric in protocol.metrics]
    assert len(set(metric_names)) == len(metric_names)
    assert all(metric.definition and metric.heading for metric in protocol.metrics)


def test_the_default_protocol_keeps_its_key() -> None:
    assert protocols.get("per_image_white").key == "per_image_white@1"


def test_a_new_protocol_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "per_image_test.py").write_text(COPY)
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])
    assert protocols.names() == ("per_image_test", "per_image_white")
    assert protocols.get("per_image_test").key == "per_image_test@3"
    assert protocols.get("per_image_test").background_gray == 0.0


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UserError, match=r"no evaluation protocol 'strip': choose from .*per_image_white"):
        protocols.get("strip")


def test_metrics_need_a_protocol() -> None:
    with pytest.raises(TypeError):
        metrics.ImageMetrics()  # type: ignore[call-arg]
