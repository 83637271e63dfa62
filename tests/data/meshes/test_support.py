"""docs/meshes.md states what the readers do."""

from __future__ import annotations

from support.paths import ROOT

from bench.data.meshes.support import markdown


def test_the_table_of_the_docs_is_the_readers_own() -> None:
    """To renew it: python -c "from bench.data.meshes.support import markdown; print(markdown())"."""
    assert (ROOT / "docs/meshes.md").read_text(encoding="utf-8").endswith(markdown())
