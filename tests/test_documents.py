"""Documents beside the code: the license, how to cite, and what the golden files are."""

from __future__ import annotations

import re
import tomllib

from ruamel.yaml import YAML
from support.paths import ROOT


def test_license_and_citation_agree_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    license_text = (ROOT / "LICENSE").read_text()
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert project["version"] == citation["version"]
    assert "Version 2.0, January 2004" in license_text and "Copyright 2026 the EAD-Bench authors" in license_text
    assert len(citation["preferred-citation"]["authors"]) == 5


def test_every_golden_file_is_described() -> None:
    folder = ROOT / "tests" / "golden"
    named = set(re.findall(r"`([\w.]+\.(?:npz|json|sh))`", (folder / "README.md").read_text()))
    assert named == {path.name for path in folder.iterdir()} - {"README.md"}


def test_links_of_documents_lead_somewhere() -> None:
    for page in (ROOT / "docs" / "licenses.md", ROOT / "tests" / "golden" / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
