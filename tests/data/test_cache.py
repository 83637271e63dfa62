"""Memory of data readers: one byte budget per node, divided by its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

from bench.common.errors import UserError
from bench.data.cache import BUDGET, GIB, PROCESSES, ByteCache, memory_size, node_budget, processes_on_node
from bench.data.scene import LARA_VIEWS, gobjaverse_cameras
from bench.data.view_selection import CLUSTERINGS, clusters

MIB = 2**20


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MiB for this process."""
    for name in ("LOCAL_WORLD_SIZE", "SLURM_PROCID", PROCESSES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(BUDGET, str(4 / 1024))


def test_values_are_kept_within_the_budget(budget: None) -> None:
    cache: ByteCache[np.ndarray] = ByteCache(share=1 / 2)
    assert cache.limit == 2 * MIB
    tracemalloc.start()
    for i in range(1000):
        assert cache.get(("view", i), lambda: np.zeros(16 * 1024, np.uint8)).nbytes == 16 * 1024
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 1.5 * MIB < cache.bytes <= 2 * MIB and 1.5 * MIB < used < 2.2 * MIB
    assert 100 < len(cache) < 128


def test_the_oldest_is_dropped_and_too_large_a_value_is_not_kept(budget: None) -> None:
    cache: ByteCache[bytes] = ByteCache(share=1)
    computed: list[str] = []

    def get(name: str, size: int) -> None:
        cache.get(name, lambda: computed.append(name) or bytes(size))  # type: ignore[func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name, int(1.8 * MIB))
    assert computed == ["a", "b", "c", "b"]  # "a" was used most recently when "c" came
    get("large", 5 * MIB)
    get("large", 5 * MIB)
    assert computed[-2:] == ["large", "large"]


def test_sizes_count_what_is_inside() -> None:
    poses = np.zeros((40, 4, 4))
    assert memory_size((poses, poses[:, 0])) > poses.nbytes + poses[:, 0].nbytes
    members = {(view, ".png"): (view * 1000, 500) for view in range(120)}
    assert memory_size(members) > 120 * 200


PROCESS_COUNTS = {
    "alone": ({}, 1),
    "torchrun": ({"LOCAL_WORLD_SIZE": "4"}, 4),
    "srun": ({"SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 4),
    "a batch script is no task": ({"SLURM_STEP_TASKS_PER_NODE": "4"}, 1),
    "two runs of four ranks": ({"LOCAL_WORLD_SIZE": "4", PROCESSES: "2"}, 8),
}


@pytest.mark.parametrize("case", PROCESS_COUNTS)
def test_processes_of_a_node_share_the_budget(case: str) -> None:
    environment, count = PROCESS_COUNTS[case]
    assert processes_on_node(environment) == count


def test_the_budget_is_read_or_refused() -> None:
    assert node_budget({BUDGET: "0.5"}) == GIB // 2
    assert 0 < node_budget({}) <= 4 * GIB
    for text in ("much", "-1", "inf", "nan"):
        with pytest.raises(UserError, match=f"{BUDGET}={text}: a number of GiB"):
            node_budget({BUDGET: text})


def test_clusterings_are_kept_within_the_budget(monkeypatch: pytest.MonkeyPatch, budget: None) -> None:
    monkeypatch.setenv(BUDGET, str(16 / 1024 / 1024))  # 16 KiB, of which clusterings have a quarter
    for radius in np.linspace(1.5, 2.0, 20):
        centers = gobjaverse_cameras((radius, radius), (0.3, -0.05))[:, :3, 3]
        assert sum(map(len, clusters(centers, np.array(LARA_VIEWS), 4))) == len(LARA_VIEWS)
    assert 0 < len(CLUSTERINGS) < 12 and CLUSTERINGS.bytes <= 4096


def test_processes_started_together_have_a_part_each() -> None:
    """All caches of two ranks of one node, in processes of their own."""
    code = (
        "import json; from bench.data.storage.source import VIEWS; from bench.data.storage.store import CAMERAS\n"
        "from bench.data.view_selection import CLUSTERINGS\n"
        "print(json.dumps([cache.limit for cache in (VIEWS, CAMERAS, CLUSTERINGS)]))"
    )
    total = 0
    for rank in ("0", "1"):
        environment = os.environ | {"LOCAL_WORLD_SIZE": "2", "RANK": rank, BUDGET: "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, cwd=ROOT)
        total += sum(json.loads(done.stdout))
    assert total == GIB


def test_the_default_is_documented() -> None:
    assert f"`{BUDGET}`" in (Path(ROOT) / "docs" / "data.md").read_text(encoding="utf-8")
