"""Published checkpoints: exactly their keys and shapes in and out, nothing else, and nothing of them executed."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.golden_cases import Case, layouts, save, tensors
from support.training import spec

from bench.config.schema import InitSpec, WeightsFile
from bench.training.initialization import build
from models import published, weights
from models.aggregators import self_attention
from models.ead import EAD, EADSpec
from models.encoders import conv, croco
from models.heads import dpt, linear
from models.outputs import gaussians
from models.published import Layout, WeightsError
from models.tensors import TokenSpec

DUST3R_TAPS = (1024, 768, 768, 768)


def freesplatter(**changes: Any) -> EADSpec:
    return EADSpec(conv.Spec(), self_attention.Spec(), linear.Spec(), gaussians.Spec(**changes), image_size=512)


def head(taps: Sequence[int], channels: int) -> torch.nn.Module:
    return dpt.Spec().build([TokenSpec(dim, 16) for dim in taps], {"raw": channels})


def on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.device("meta"):
        return build()


FULL = {  # published file → our part, its layout, how many of the file's tensors it takes
    "croco_v2_vitb_small_decoder": (croco.Spec(width=768, blocks=12, heads=12).build, published.croco_encoder(), 148),
    "croco_v2_vitb_base_decoder": (croco.Spec(width=768, blocks=12, heads=12).build, published.croco_encoder(), 148),
    "croco_v2_vitl_base_decoder": (croco.Spec().build, published.croco_encoder(), 292),
    "dust3r_linear_512": (croco.Spec().build, published.croco_encoder(), 292),
    "dust3r_dpt_512": (croco.Spec().build, published.croco_encoder(), 292),
    "mast3r": (croco.Spec().build, published.croco_encoder(), 292),
    "freesplatter_object": (freesplatter().build, published.freesplatter(), 199),
}


@pytest.mark.parametrize("name", FULL)
def test_a_published_file_fits_its_part_at_full_size(name: str, tmp_path: Path) -> None:
    build, layout, count = FULL[name]
    path = save(tmp_path / "file.pth", tensors(name), wrapped=name != "freesplatter_object")
    module = on_meta(build)
    state, initial = published.validate_layout(module, weights.read(path), layout, str(path))
    assert len(state) == count and not initial
    assert {key: value.shape for key, value in layout.to_ours(state).items()} == {
        key: value.shape for key, value in module.state_dict().items()
    }
    if name == "freesplatter_object":
        assert sum(p.numel() for p in module.parameters()) == layouts()[name]["parameters"] == 307_941_824


@pytest.mark.parametrize("name", ["dust3r_dpt_512", "mast3r"])
def test_their_dpt_head_fits_ours_but_for_what_it_reads_and_writes(name: str) -> None:
    """DUSt3R's decoder is 768 wide and its head writes 4 channels; ours may differ there, and nowhere else."""
    public, layout = tensors(name), published.dpt_head()
    state, initial = published.validate_layout(on_meta(lambda: head(DUST3R_TAPS, 4)), public, layout, name)
    assert initial == [] and len(state) == sum(key.startswith("downstream_head1.dpt.") for key in public)
    _, initial = published.validate_layout(on_meta(lambda: head((1024,) * 4, 23)), public, layout, name)
    adapted = [f"act_postprocess.{i}.0.weight" for i in (1, 2, 3)] + ["head.4.weight", "head.4.bias"]
    assert sorted(initial) == sorted(f"downstream_head1.dpt.{key}" for key in adapted)
    narrow = on_meta(lambda: dpt.Spec(features=128).build([TokenSpec(1024, 16)] * 4, {"raw": 4}))
    with pytest.raises(WeightsError, match=r"scratch\.layer1_rn\.weight has shape \(256, 96, 3, 3\), this model \(128"):
        published.validate_layout(narrow, public, layout, name)


def test_what_adapts_stays_as_it_was_drawn() -> None:
    case = Case("dust3r_dpt_head_even")
    spec = dpt.Spec(layer_dims=(6, 8, 12, 16), features=12, last_dim=8)
    module = spec.build([TokenSpec(32, 16)] * 4, {"raw": 7})
    before = {key: value.clone() for key, value in module.state_dict().items()}
    initial = published.load_layout(module, case.state(), published.dpt_head("dpt."), "file")
    assert initial == ["dpt.head.4.weight", "dpt.head.4.bias"]
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == before.keys() - {"out.weight", "out.bias"}


def test_other_heads_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"act_postprocess\.0\.0\.weight is missing"):
        published.validate_layout(
            on_meta(lambda: head(DUST3R_TAPS, 4)), tensors("dust3r_linear_512"), published.dpt_head(), "f"
        )


def test_flat_gaussians_are_refused_in_a_sentence() -> None:
    module = on_meta(freesplatter().build)
    with pytest.raises(WeightsError, match=r"file: this is FreeSplatter's model of 2D Gaussians .* use freesplat"):
        published.validate_layout(module, tensors("freesplatter_object_2dgs"), published.freesplatter(), "file")


def test_positions_of_the_first_croco_are_refused() -> None:
    """CroCo v1 adds cosine positions: a file whose other tensors all fit would run, and be wrong."""
    public = tensors("croco_v2_vitl_base_decoder") | {"enc_pos_embed": torch.zeros(196, 1024)}
    with pytest.raises(WeightsError, match=r"enc_pos_embed \(196, 1024\) belongs to no parameter"):
        published.validate_layout(on_meta(croco.Spec().build), public, published.croco_encoder(), "file")


SMALL: dict[str, tuple[Layout, str, str]] = {  # a golden case, its layout, a key of it, a key that does not belong
    "croco_encoder_square": (published.croco_encoder(), "enc_norm.bias", "enc_more.bias"),
    "freesplatter_half_size": (published.freesplatter(), "norm.weight", "blocks.0.bias"),
    "dust3r_dpt_head_even": (published.dpt_head("dpt."), "dpt.head.2.bias", "dpt.head.9.bias"),
}


def module_of(name: str) -> torch.nn.Module:
    c = Case(name).config
    if name.startswith("croco"):
        return croco.Spec(patch=c["patch"], width=c["dim"], blocks=c["depth"], heads=c["heads"]).build()
    if name.startswith("dust3r"):
        spec = dpt.Spec(layer_dims=tuple(c["dpt"]["layer_dims"]), features=12, last_dim=8)
        dims = [c["enc_dim"], *[c["dec_dim"]] * 3]
        return spec.build([TokenSpec(dim, 16) for dim in dims], {"raw": 4})
    return small_freesplatter(name)


def small_freesplatter(name: str) -> EAD:
    c = Case(name).config
    aggregator = self_attention.Spec(blocks=c["depth"], heads=c["heads"], table_size=c["table_image"])
    encoder = conv.Spec(patch=c["patch"], width=c["dim"])
    return EADSpec(encoder, aggregator, linear.Spec(), gaussians.Spec(), image_size=c["image"][0]).build(0)


@pytest.mark.parametrize("name", SMALL)
def test_strict_to_the_last_key_in_the_files_words(name: str) -> None:
    layout, key, more = SMALL[name]
    state, module = Case(name).state(), module_of(name)
    shown = re.escape("transformer." * name.startswith("freesplatter") + key)
    with pytest.raises(WeightsError, match=rf"f\.pth: {shown} is missing \(this model has it as \(\d"):
        published.load_layout(module, {k: v for k, v in state.items() if k != key}, layout, "f.pth")
    with pytest.raises(WeightsError, match=rf"f\.pth: {shown} has shape \(3, 3\), this model \(\d"):
        published.load_layout(module, state | {key: torch.zeros(3, 3)}, layout, "f.pth")
    with pytest.raises(WeightsError, match=rf"f\.pth: .*{re.escape(more)} \(1,\) belongs to no parameter"):
        published.load_layout(module, state | {more: torch.zeros(1)}, layout, "f.pth")


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_is_the_same_file(name: str, tmp_path: Path) -> None:
    layout, _, _ = SMALL[name]
    module, public = module_of(name), Case(name).state()
    published.load_layout(module, public, layout, name)
    if isinstance(module, EAD):
        weights.export(module, tmp_path / "out.safetensors")
        public = {f"transformer.{key}": value for key, value in public.items()}
    else:
        weights.export(module, tmp_path / "out.safetensors", layout)
    back = load_file(tmp_path / "out.safetensors")
    assert back.keys() == public.keys() and all(torch.equal(back[key], public[key]) for key in public)
    again = module_of(name)
    published.load_layout(again, weights.read(tmp_path / "out.safetensors"), layout, name)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in module.state_dict().items())


def test_export_refuses_what_freesplatter_cannot_hold(tmp_path: Path) -> None:
    aggregator = self_attention.Spec(blocks=1, heads=2, view_embedding="per_view", views=2, table_size=32)
    spec = EADSpec(conv.Spec(width=32), aggregator, linear.Spec(), gaussians.Spec(), image_size=32)
    with pytest.raises(WeightsError, match="view_embedding is per_view, FreeSplatter's is reference_source"):
        weights.export(spec.build(0), tmp_path / "x.safetensors")


def test_a_layer_of_dpt_may_be_stored_once_but_not_differ() -> None:
    state, module, layout = Case("dust3r_dpt_head_even").state(), module_of("dust3r_dpt_head_even"), SMALL
    for dropped in (".layer_rn.", "layer1_rn"):
        once = {key: value for key, value in state.items() if dropped not in key}
        assert len(once) < len(state)
        published.load_layout(module, once, layout["dust3r_dpt_head_even"][0], "file")
        assert torch.equal(module.state_dict()["project.0.weight"], state["dpt.scratch.layer1_rn.weight"])
    wrong = state | {"dpt.scratch.layer_rn.2.weight": state["dpt.scratch.layer_rn.2.weight"] + 1}
    with pytest.raises(WeightsError, match=r"layer3_rn\.weight and .*layer_rn\.2\.weight differ"):
        published.load_layout(module, wrong, published.dpt_head("dpt."), "file")


class Malicious:
    """Unpickled by pickle itself, it makes a file."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def malicious(trace: Path) -> dict[str, Any]:
    code = f"open({str(trace)!r}, 'w').close()"
    import os
    import subprocess

    return {
        "system": Malicious(os.system, f"touch {trace}"),
        "process": Malicious(subprocess.check_call, ["touch", str(trace)]),
        "exec": Malicious(exec, code),
        "inside the arguments": argparse.Namespace(model=Malicious(exec, code)),
    }


@pytest.mark.parametrize("way", malicious(Path()))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_pickled_is_executed(way: str, form: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "file.pth"
    content = {"model": Case("croco_encoder_square").state(), "args": malicious(trace)[way]}
    if form == "pickle":
        path.write_bytes(pickle.dumps({**content, "model": {}}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match="cannot be read as weights alone, and nothing else of it is run"):
        weights.read(path)
    assert not trace.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the file was a live one


@pytest.mark.parametrize("zipped", [True, False])
def test_what_published_files_keep_beside_the_tensors_is_no_obstacle(zipped: bool, tmp_path: Path) -> None:
    state = Case("croco_encoder_square").state()
    path = save(tmp_path / "MASt3R.pth", state)
    if not zipped:
        content = torch.load(path, weights_only=False)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    tensors_read = weights.read(path)
    assert tensors_read.keys() == state.keys() and all(torch.equal(tensors_read[key], state[key]) for key in state)


def test_containers_and_suffixes_do_not_matter(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    save_file(state, tmp_path / "renamed.pth")
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    for name in ("renamed.pth", "lightning.ckpt"):
        assert weights.read(tmp_path / name).keys() == state.keys()


STATE = {"encoder.a": torch.ones(2), "head.b": torch.zeros(3)}


def prefixed(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


WRAPPED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # content of a file, what is taken off
    "plain": (STATE, ()),
    "DistributedDataParallel": (prefixed("module."), ("module.",)),
    "compiled": (prefixed("_orig_mod."), ("_orig_mod.",)),
    "both": (prefixed("module._orig_mod."), ("module.", "_orig_mod.")),
    "Lightning": (
        {"state_dict": prefixed("model."), "epoch": 3, "optimizer_states": [{"state": {}}], "callbacks": {}},
        ("state_dict", "model."),
    ),
    "Lightning, net": ({"state_dict": prefixed("net.")}, ("state_dict", "net.")),
    "PyTorch's tutorial": (
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
         "loss": torch.tensor(0.5)},
        ("model_state_dict",),
    ),
    "nested": ({"model": {"state_dict": prefixed("module.")}, "args": {}}, ("model", "state_dict", "module.")),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_what_wraps_the_tensors_is_taken_off(case: str, tmp_path: Path) -> None:
    content, wrapping = WRAPPED[case]
    torch.save(content, tmp_path / "file.pth")
    checkpoint = weights.read_checkpoint(tmp_path / "file.pth")
    assert checkpoint.wrapping == wrapping and checkpoint.state.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.state[key], value) for key, value in STATE.items())


def test_prefixes_in_safetensors_are_taken_off(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "file.safetensors")
    assert weights.read(tmp_path / "file.safetensors").keys() == STATE.keys()


AMBIGUOUS: dict[str, tuple[dict[str, Any], str]] = {
    "an average beside the weights": ({"model": STATE, "ema": STATE}, "several state dicts, model and ema: save the"),
    "two containers": ({"state_dict": STATE, "model": STATE}, "several state dicts, state_dict and model"),
    "mixed prefixes": (
        prefixed("module.") | {"step": torch.ones(1)},
        r"some keys begin with module\. and others, such as step, do not",
    ),
    "two models": (
        {"state_dict": prefixed("net.") | prefixed("teacher.")},
        r"some keys begin with net\. and others, such as teacher\.encoder\.a, do not",
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_ambiguous_wrapping_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    content, message = AMBIGUOUS[case]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=message) as refused:
        weights.read(tmp_path / "file.pth")
    assert "\n" not in str(refused.value)


def test_a_wrapped_checkpoint_of_ours_starts_a_run_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = spec().model.build(5)
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": prefixed("model.", trained.state_dict()), "epoch": 1}, path)
    file = WeightsFile(str(path), sha256=sha256(path.read_bytes()).hexdigest())
    with caplog.at_level("INFO"):
        model = build(replace(spec(), init=InitSpec(model=file)), None)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())
    assert [record.getMessage() for record in caplog.records] == [
        f"init.model: {path} is read without what wraps its tensors: state_dict, model."
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<Error>no such file</Error>" * 20, "neither a torch file nor safetensors"),
        (b"", "neither a torch file nor safetensors"),
        (b"PK\x03\x04 cut short", "neither a torch file nor safetensors"),
        (pickle.dumps([1, exec], protocol=2), "cannot be read as weights alone"),
    ],
)
def test_damaged_files_are_reported(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        weights.read(tmp_path / "file.pth")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no state dict but a list"):
        weights.read(tmp_path / "list.pth")
    torch.save({"weight": torch.ones(1), "step": 3}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match="step is no tensor"):
        weights.read(tmp_path / "mixed.pth")


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_damaged_weights_of_a_run_are_named_with_a_cure(damage: str, tmp_path: Path) -> None:
    model, path = spec().model.build(0), tmp_path / weights.WEIGHTS_FILE
    weights.save_spec(model, tmp_path / weights.SPEC_FILE)
    weights.save_weights(model, path)
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"weights\.safetensors.*train the run again \(--force\)") as refused:
        weights.load(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
