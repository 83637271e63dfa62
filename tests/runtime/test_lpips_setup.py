"""LPIPS backbones of `python -m bench.setup`: equal to the published ones, and read without executing anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import GOLDEN

from bench.common.errors import UserError
from bench.runtime import lpips_download, lpips_weights

needs_weights = pytest.mark.skipif(
    not all(map(lpips_weights.backbone_available, lpips_weights.NETS)),
    reason="no LPIPS backbones: run `python -m bench.setup`",
)


@needs_weights
@pytest.mark.parametrize("net", lpips_weights.NETS)
def test_values_and_weights_are_the_published_ones(net: lpips_weights.Net) -> None:
    golden = np.load(GOLDEN / f"lpips_{net}.npz")
    model = lpips_weights.lpips_model(net)
    reference, distorted = (torch.from_numpy(golden[f"in/{k}"]).permute(0, 3, 1, 2) for k in ("reference", "distorted"))
    value = model(reference, distorted, normalize=True).flatten()
    np.testing.assert_allclose(value.numpy(), golden["out/value"], atol=1e-5, rtol=0)
    hashes = json.loads(str(golden["config"]))["sha256_16_of_weights"]
    computed = {
        k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest()[:16] for k, v in model.state_dict().items()
    }
    assert computed == hashes
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_missing_and_damaged_backbones_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    assert not lpips_weights.backbone_available("alex")
    with pytest.raises(UserError, match=r"python -m bench\.setup"):
        lpips_weights.lpips_model("alex")
    tensors = {f"features.{n}.{k}": np.zeros(2, np.float32) for n in (0, 3, 6, 8, 10) for k in ("weight", "bias")}
    with pytest.raises(UserError, match="sha256"):
        lpips_download.store("alex", tensors)
    assert not lpips_weights.backbone_available("alex")
    lpips_weights.path("alex").parent.mkdir()
    lpips_weights.path("alex").write_bytes(b"<xml>not found</xml>")
    with pytest.raises(UserError, match="cannot be read"):
        lpips_weights.lpips_model("alex")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_unpickler_admits_arrays_only(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    np.testing.assert_array_equal(
        lpips_download.unpickle(io.BytesIO(pickle.dumps(arrays, protocol=3)))["a"]["b"], arrays["a"]["b"]
    )
    with pytest.raises(UserError, match=r"builtins\.print"):
        lpips_download.unpickle(io.BytesIO(pickle.dumps({"a": Malicious()})))
    assert "executed" not in capsys.readouterr().out


def test_archive_is_read_without_importing_and_kernels_turned(tmp_path: Path) -> None:
    kernels = {
        f"Conv_{i}": {
            "kernel": np.random.default_rng(i).random((3, 2, 4, 5), np.float32),
            "bias": np.ones(5, np.float32),
        }
        for i in range(5)
    }
    archive = tmp_path / "x.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        content = pickle.dumps({"AlexNet_0": kernels}, protocol=3)
        member = tarfile.TarInfo("x-0.1/x/weights/alexnet.ckpt")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    state = lpips_download.read("alex", archive)
    assert list(state)[::2] == [f"features.{n}.weight" for n in (0, 3, 6, 8, 10)]
    assert state["features.3.weight"].shape == (5, 4, 3, 2)
    assert state["features.3.weight"][4, 3, 2, 1] == kernels["Conv_1"]["kernel"][2, 1, 3, 4]
    with pytest.raises(UserError, match=r"vgg16\.ckpt"):
        lpips_download.read("vgg", archive)


def test_without_network_it_says_what_is_missing_and_what_then_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"(?s)No matching distribution.*losses\.lpips=null"):
        lpips_download.fetch(tmp_path)
