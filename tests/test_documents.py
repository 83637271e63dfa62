"""README and docs: short, linked, and true. Every command, program and file in their code blocks is executed.

They run in a copy of the source whose tiny runs are shorter (tests/support/documents.py). ```bash is run command
by command and must succeed, ```bash fails=2 must fail with that code and the message of its heading; ```python run is
executed; ```python file=PATH and ```yaml file=PATH are complete files of that copy; other ```yaml is a spec that loads.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trimesh
from ruamel.yaml import YAML
from support.documents import PAGES, Block, blocks, checkout, environment
from support.paths import ROOT

from bench.common.json_files import read_json

DRY_RUNS = {  # commands that need a cluster, a GPU, root, a network or an hour, and what is run of them instead
    "make run": "make -n run",
    "make test": "make -n test",
    "make campaign": "make -n campaign",
    "git switch my-change": "true",
    **{command: f"{command} --dry-run" for command in (
        "python -m bench.run ablations/pretrain_encoder.yaml", "python -m bench.run ablations/pretraining.yaml",
        "python -m bench.run ablations/pretraining_on_renderings.yaml data.root=furniture data.evaluation_root=OTHER",
        "python -m bench.run ablations/cost.yaml", "python -m bench.run ablations/cost.yaml --scale paper")},
    "python -m bench.run ablations/patch_size.yaml --force":
        "python -m bench.run ablations/patch_size.yaml --force --only '*8, 2*'",
    "python -m bench.setup": "python -m bench.setup --help",
    "python -m bench.gpu_suite --out gpu --minutes 15": "python -m bench.gpu_suite --help",
    "python -m bench.gpu_bundle": "python -m bench.gpu_bundle --help",
    "tar -xf gpu_bundle.tar.xz": "true",
    "PYTHONPATH=gpu_bundle/site EAD_BENCH_CACHE=gpu_bundle/cache python3 -m bench.gpu_suite --out gpu --minutes 15":
        "python -m bench.gpu_suite --help",
    "mkdir -p results/published/hardware && cp gpu/*.json results/published/hardware/": "true",
    **{f"torchrun --nproc-per-node 4 -m bench.work {arguments}": "python -m bench.work --help" for arguments in (
        "ablations/base/ours2.yaml --scale paper train.steps=50000",
        "ablations/table3.yaml --scale paper --only Ours2", "results/runs/ID")},
    "apt-get install sweethome3d-furniture": "true",
    "python -m bench.data furniture --out furniture --size 64": "python -m bench.data furniture --help",
    "tensorboard --logdir results/runs": "tensorboard --version",
    "python -m bench.benchmark rendering": "python -m bench.benchmark rendering --help",
    "python -m bench.benchmark step": "python -m bench.benchmark step --help",
    "python -m bench.benchmark estimate": "python -m bench.benchmark estimate --only croco",
    "python -m bench.benchmark estimate --scale paper": "python -m bench.benchmark estimate --scale paper --only none",
    "python -m bench.run ablations/memory.yaml --scale paper --estimate":
        "python -m bench.run ablations/memory.yaml --scale paper --dry-run",
    "python -m bench.benchmark data": "python -m bench.benchmark data --help",
    "python -m bench.run ablations/base/freesplatter.yaml model.encoder=average --overfit 1":
        "python -m bench.run ablations/base/freesplatter.yaml model.encoder=average --overfit 1 --dry-run",
    "python -m bench.run ablations/table3.yaml --scale paper --slurm slurm/a100.yaml":
        "python -m bench.run ablations/table3.yaml --scale paper --slurm slurm/a100.yaml --dry-run",
    "python -m bench.run ablations/table3.yaml --scale paper --slurm slurm/a100.yaml --test-only":
        "python -m bench.run ablations/table3.yaml --scale paper --slurm slurm/a100.yaml --dry-run",
    "python -m bench.status results/table3_paper --follow": "python -m bench.status --help",
    "python -m bench.cancel results/table3_paper --only 'Ours*'": "python -m bench.cancel --help",
    "python tests/support/slurm_cluster.py up cluster": "python tests/support/slurm_cluster.py --help",
    "python tests/support/slurm_cluster.py down cluster": "python tests/support/slurm_cluster.py --help",
    "REQUIRE=slurm python -m pytest -m slurm": "python -m pytest -m slurm --collect-only -q tests/slurm/test_real.py",
}  # fmt: skip
JUDGES = {"python -m bench.doctor": (0, 2)}  # exit codes that depend on the machine
PARTS = {  # all that docs/extending.md adds, in one run
    "model.encoder": "average", "model.aggregator": "mean_token", "model.head": "refined", "model.output": "spheres",
    "losses.l1": "0.5", "views.choice": "farthest", "data": "colored_balls",
    "evaluation.protocols": "[per_image_white, per_image_black]",
}  # fmt: skip
EXTENDING = ROOT / "docs" / "extending.md"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with the environment that `source .venv/bin/activate` expects, and three meshes."""
    folder = checkout(tmp_path_factory.mktemp("documents"))
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("true\n")
    (folder / "meshes").mkdir()
    for name, height in (("one", 0.5), ("two", 1.0), ("three", 2.0)):
        trimesh.creation.box((1, 1, height)).export(folder / "meshes" / f"{name}.ply")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(command: str, lab: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """In bash, from the checkout."""
    arguments = ["nice", "bash", "-c", command]
    return subprocess.run(arguments, cwd=lab, env=environment(), capture_output=True, text=True, timeout=timeout)


@cache
def stand_in(command: str, lab: Path) -> subprocess.CompletedProcess[str]:
    """What runs instead of others, once for all of them."""
    return run(command, lab)


def output(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.args[-1]}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_does_what_it_says(page: Path, lab: Path) -> None:
    if page.name == "results.md":
        done = run("python -m bench.run ablations/patch_size.yaml --no-report", lab)  # the page's commands write it
        assert done.returncode == 0, f"the quick start, which this page takes as done: {output(done)}"
    heading = ""
    for number, block in enumerate(blocks(page)):
        if block.language == "bash" and block.mark == "fails":
            heading = (
                page.read_text(encoding="utf-8").partition(block.text)[0].rpartition("\n## ")[2].partition("\n")[0]
            )
            for command in block.commands:
                done = run(command, lab)
                messages = re.findall(r"`([^`]+)`", heading)
                printed = " ".join((done.stdout + done.stderr).split())
                assert done.returncode == int(block.value), output(done)
                assert any(message in printed for message in messages), f"{messages}: {output(done)}"
        elif block.language == "bash":
            for command in block.commands:
                done = stand_in(DRY_RUNS[command], lab) if command in DRY_RUNS else run(command, lab)
                assert done.returncode in JUDGES.get(command, (0,)), output(done)
        elif block.language == "python" and block.mark == "run":
            (lab / f"block_{number}.py").write_text(block.text, encoding="utf-8")
            done = run(f"python block_{number}.py", lab)
            assert done.returncode == 0, output(done)
        elif block.language == "yaml" and not block.mark:
            spec_loads(block, number, lab)
        else:
            assert block.mark in ("file", "replace") or not (block.language or "python -m" in block.text), (
                f"{page}: block {number} is not executed"
            )


def spec_loads(block: Block, number: int, lab: Path) -> None:
    path = lab / "ablations" / f"block_{number}.yaml"
    path.write_text(block.text, encoding="utf-8")
    command = "bench.search" if "\nsearch:" in block.text else "bench.run"
    done = run(f"python -m {command} {path} --dry-run --json", lab)
    assert done.returncode == 0, output(done)
    if original := re.match(r"# (ablations/\w+\.yaml)", block.text):
        assert done.stdout == run(f"python -m {command} {original[1]} --dry-run --json", lab).stdout


def test_every_dry_run_is_of_a_command_on_some_page() -> None:
    commands = {command for page in PAGES for block in blocks(page) for command in block.commands}
    assert set(DRY_RUNS) <= commands


@pytest.mark.long
@pytest.mark.timeout(900)
def test_files_of_extending_train_together_and_pass_the_shared_tests(lab: Path) -> None:
    added = [Path(block.value) for block in blocks(EXTENDING) if block.mark == "file"]
    assert {path.stem for path in added} >= {value for value in PARTS.values() if value.isidentifier()}
    overrides = " ".join(shlex.quote(f"{name}={value}") for name, value in PARTS.items())
    done = run(f"python -m bench.run ablations/base/freesplatter.yaml {overrides} --no-report --results parts", lab)
    assert done.returncode == 0, output(done)
    (evaluations,) = (lab / "parts" / "runs").glob("*/evals")
    means = {path.stem.partition("@")[0]: read_json(path)["means"]["psnr"] for path in evaluations.glob("*.json")}
    assert means.keys() == {"per_image_white", "per_image_black"} and len(set(means.values())) == 2
    names = " or ".join(path.stem for path in added if path.suffix == ".py")
    tests = "tests/models/test_parts.py tests/losses tests/protocols tests/data/test_data.py"
    done = run(f"python -m pytest -q {tests} -k {shlex.quote(names)}", lab)
    assert done.returncode == 0, output(done)
    done = run("python -m bench.search ablations/my_search.yaml --no-report", lab)
    assert done.returncode == 0, output(done)


@pytest.mark.long
def test_the_optimizer_of_extending_trains(lab: Path) -> None:
    (block,) = [block for block in blocks(EXTENDING) if block.mark == "replace"]
    path = lab / block.value
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(block.text, encoding="utf-8")
        done = run("python -m bench.run ablations/base/freesplatter.yaml seed=7 --no-report --results sgd", lab)
    finally:
        path.write_text(original, encoding="utf-8")
    assert done.returncode == 0, output(done)


def test_readme_is_short_and_glossary_too() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100
    glossary = EXTENDING.read_text(encoding="utf-8").partition("## Glossary")[2]
    assert len(re.findall(r"^\| (?!word|-)", glossary, re.MULTILINE)) <= 20


def test_parameters_in_readme_are_counted() -> None:
    """README's table of models against the sizes that tests/models counts."""
    sizes = read_json(ROOT / "tests" / "golden" / "published_sizes.json")
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|.*?\| (\d[\d,; ]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    counts = {
        name.strip("` "): int(count.replace(",", ""))
        for names, cell in rows
        for name, count in zip(names.split(", "), cell.split("; "), strict=True)
    }
    assert len(counts) >= 3 and counts == {name: sizes[name]["parameters"] for name in counts}


def test_the_readme_prints_the_published_table() -> None:
    """Its lines of Table 3 against results/published/table3_tiny, column by column."""

    def rows(text: str) -> dict[str, dict[str, str]]:
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
        start = next(i for i, line in enumerate(lines) if "PSNR ↑" in line)
        return {line[0]: dict(zip(lines[start][1:], line[1:], strict=True)) for line in lines[start + 2 : start + 5]}

    printed = rows((ROOT / "README.md").read_text(encoding="utf-8"))
    published = rows((ROOT / "results/published/table3_tiny/tables/table.md").read_text(encoding="utf-8"))
    assert list(printed) == ["FreeSplatter", "Ours1", "Ours2"]
    for model, cells in printed.items():
        assert cells == {name: published[model][name] for name in cells}


@pytest.mark.parametrize(("page", "question", "file"), [
    ("docs/extending.md", "Where is the optimizer set up, and how do I change it?", "bench/training/optimizer.py"),
    ("docs/extending.md", "loss term", "bench/losses/NAME.py"),
])  # fmt: skip
def test_questions_of_a_newcomer_name_the_file(page: str, question: str, file: str) -> None:
    (line,) = [
        line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if question in line and file in line
    ]
    assert "extending.md" in (ROOT / "README.md").read_text(encoding="utf-8") and line


def test_the_map_names_every_package() -> None:
    """docs/extending.md lists the packages of bench, once each."""
    text = EXTENDING.read_text(encoding="utf-8").partition("## The code, package by package")[2]
    named = re.findall(r"bench/(\w+)/", text)
    assert sorted(named) == sorted(path.parent.name for path in (ROOT / "bench").glob("*/__init__.py"))


def test_links_of_documents_lead_somewhere() -> None:
    for page in (*PAGES, ROOT / "tests" / "golden" / "README.md"):
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
            path = page.parent / target if target else page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


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
