"""What the project expects of private APIs of other libraries (bench/common/compat.py), with the pinned versions."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from support.paths import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.common import compat

PRIVATE = re.compile(r"\b(?:torch|np|numpy|optuna|rich|submitit|trimesh|part|mesh)(?:\.\w+)*\._[a-z]\w*|import _[a-z]")
ALLOWED = ("bench/common/compat.py", "bench/profiling/estimate/torch_internals.py", "models/",
           "bench/training/optimizer.py")  # _ConvNd is documented by torch  # fmt: skip


def test_private_apis_are_used_in_one_module() -> None:
    uses = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "bench").rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(ALLOWED)
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line) and '"numpy._core' not in line
    ]
    assert not uses, "\n".join(uses)


def test_a_recording_profiler_is_seen() -> None:
    assert not compat.profiler_enabled()
    with torch.profiler.profile():
        assert compat.profiler_enabled()
    assert not compat.profiler_enabled()


def test_tensors_without_values_are_seen() -> None:
    assert not compat.shapes_only()
    with FakeTensorMode():
        assert compat.shapes_only()


def test_every_dropout_layer_is_one() -> None:
    nn = torch.nn
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    assert all(compat.is_dropout(kind()) for kind in kinds) and not compat.is_dropout(nn.Identity())


def test_norms_and_copies_of_several_tensors() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([[6.0], [8.0]], dtype=torch.bfloat16)]
    assert [float(norm) for norm in compat.tensor_norms(tensors)] == [5.0, 10.0]
    targets = [torch.zeros_like(tensor) for tensor in tensors]
    compat.copy_tensors(targets, tensors)
    assert all(torch.equal(target, tensor) for target, tensor in zip(targets, tensors, strict=True))


def test_fused_adamw_skips_the_update_where_found_inf_is_set() -> None:
    """torch's protocol with its gradient scaler, which bench.training.optimizer.AdamW relies on."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(2)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(2))
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert float(weight.detach()[0]) < 1


def test_submitit_writes_the_script_and_has_its_modules(tmp_path: Path) -> None:
    text = compat.sbatch_script("python -m thing", tmp_path, {"job_name": "sweep", "time": 5, "map_count": 3})
    assert text.startswith("#!/bin/bash") and "#SBATCH --array=0-2" in text and "#SBATCH --time=5" in text
    assert "python -m thing" in text
    for module in (compat.SUBMITIT_JOB_MODULE, compat.SUBMITIT_LOCAL_MODULE):
        assert importlib.util.find_spec(module), module


def test_numpy_arrays_are_pickled_by_the_named_function() -> None:
    assert compat.numpy_reconstruct().__name__.encode() in pickle.dumps(np.zeros(2), protocol=2)
