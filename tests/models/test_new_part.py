"""Mistakes of those who write a part: each is reported with its place, and an edit of a trained part is noticed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT
from support.training import run, spec
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import models.encoders
from bench.common.errors import ConfigError
from bench.config import load, spec_fields
from bench.config.source_hash import changed_sources, source_hashes
from models import parts, weights
from models.aggregators import self_attention
from models.tensors import Tokens, TokenSpec, Views

ENCODER = """
from dataclasses import dataclass
from torch import nn
from models.parts import EncoderSpec
from models.tensors import TokenSpec

@dataclass(frozen=True)
class Spec(EncoderSpec):
    patch: int = 4
    width: int = 32

    def tokens(self):
        return TokenSpec(dim=self.width, patch=self.patch)

    def build(self):
        return nn.Identity()
"""
Write = Callable[[str], None]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes models/encoders/mine.py, in a folder that the package also looks in."""
    folder = tmp_path / "models" / "encoders"
    folder.mkdir(parents=True)
    monkeypatch.setattr(models.encoders, "__path__", [*models.encoders.__path__, str(folder)])

    def forget() -> None:
        sys.modules.pop("models.encoders.mine", None)
        for cached in (parts.available, spec_fields.spec_class_of, spec_fields.field_type):
            cached.cache_clear()

    def write(text: str) -> None:
        forget()
        (folder / "mine.py").write_text(text)

    yield write
    forget()


BROKEN = {
    "syntax": (ENCODER + "\nwidth = = 3\n", r"models/encoders/mine\.py:18: invalid syntax"),
    "import": ("import numpi\n" + ENCODER, r"models/encoders/mine\.py:1: ModuleNotFoundError: .*numpi"),
    "field order": (
        ENCODER.replace("width: int = 32", "width: int"),
        r"models/encoders/mine\.py:\d+: TypeError: non-default argument 'width'",
    ),
    "no class": ("x = 1\n", "mine.py has no class Spec"),
    "no dataclass": (ENCODER.replace("@dataclass(frozen=True)", ""), r"mine\.py: its class Spec needs @dataclass"),
    "no part": (
        ENCODER.replace("EncoderSpec", "PartSpec"),
        r"mine\.py: its class Spec must derive from EncoderSpec of models\.parts",
    ),
    "abstract": (ENCODER.replace("def tokens", "def token"), r"mine\.py: its class Spec lacks tokens"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_file_is_named(mistake: str, mine: Write) -> None:
    text, message = BROKEN[mistake]
    mine(text)
    with pytest.raises(ConfigError, match=message):
        load(Path("ablations/base/freesplatter.yaml"), ["model.encoder=mine"])


def test_a_whole_file_can_be_chosen(mine: Write) -> None:
    mine(ENCODER)
    sweep = load(Path("ablations/base/freesplatter.yaml"), ["model.encoder=mine", "model.aggregator.heads=2"])
    assert sweep.runs[0].spec.model.encoder.name == "mine"


@dataclass(frozen=True)
class ShortOfALevel(self_attention.Spec):
    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens] * self.blocks


def test_an_aggregator_that_declares_too_few_levels_is_named() -> None:
    model = spec().model
    short = replace(model, aggregator=ShortOfALevel(**asdict(model.aggregator)))
    (problem,) = short.problems(4)
    assert problem.field == "aggregator"
    assert f"gives {model.aggregator.blocks} levels: {model.aggregator.blocks + 1} are needed" in problem.message


class Wrong(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, views: Views) -> object:
        batch, view = views.images.shape[:2]
        return self.answer(torch.zeros(batch, view, 4, 4, 32))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda grid: Tokens(grid.movedim(-1, 2)),
            r"conv returned a grid of shape \(1, 4, 32, 4, 4\).*\(1, 4, 4, 4, 32\)",
        ),
        (lambda grid: Tokens(grid[:, :, ::2, ::2]), r"conv returned a grid of shape \(1, 4, 2, 2, 32\)"),
        (lambda grid: Tokens(grid[..., :16]), r"conv returned a grid of shape \(1, 4, 4, 4, 16\)"),
        (lambda grid: Tokens(grid, extra=grid[:, :, 0, :2]), "conv returned 2 extra tokens a view; .* promises 0"),
        (lambda grid: grid, "conv returned a Tensor, not Tokens"),
    ],
)
def test_an_encoder_that_breaks_its_promise_gets_the_blame(answer: Callable[[Tensor], object], message: str) -> None:
    model = spec().model.build(0)
    model.encoder = Wrong(answer)
    with pytest.raises(TypeError, match=message):
        model(Views(torch.rand(1, 4, 3, 16, 16)))


def test_images_that_no_model_takes() -> None:
    program = (  # in a process without the shape hook, which would be faster
        "import torch; from bench.config import load; "
        "load('ablations/base/ours1.yaml').runs[0].spec.model.build(0)(torch.rand(1, 4, 3, 16, 16))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "TypeError: a model takes models.Views(images), not a Tensor" in result.stderr
    model = spec().model.build(0)
    with pytest.raises(ValueError, match="18 × 16 pixels do not divide into the encoder's patches of 4"):
        model(Views(torch.rand(1, 4, 3, 18, 16)))


def images(views: int = 4) -> Tensor:
    return torch.linspace(0, 1, 768 * views).reshape(1, views, 3, 16, 16)


WRONG_VIEWS: dict[str, tuple[Tensor, type[Exception], str]] = {
    "up to 255": (images() * 255, ValueError, "from 0 to 255; images are floats in .*: divide them by 255"),
    "from -1": (images() * 2 - 1, ValueError, "from -1 to 1; images are floats in .*: rescale or clamp them"),
    "NaN": (images().masked_fill(images() == 1, torch.nan), ValueError, "NaN or infinite"),
    "infinite": (images().masked_fill(images() == 1, torch.inf), ValueError, "NaN or infinite"),
    "half": (
        images().half(),
        TypeError,
        r"float16, the model's weights torch.float32: pass images.to\(torch.float32\)",
    ),
    "double": (images().double(), TypeError, r"float64, .*: pass images.to\(torch.float32\)"),
    "five views": (images(5), ValueError, "view embeddings for 4 views, not for 5; train with"),
}


@pytest.mark.parametrize("case", WRONG_VIEWS)
def test_wrong_views_are_one_clear_error(case: str) -> None:
    wrong, error, message = WRONG_VIEWS[case]
    with pytest.raises(error, match=message) as refused:
        spec().model.build(0)(Views(wrong))
    assert "\n" not in str(refused.value)


def test_an_edited_part_is_noticed(tmp_path: Path, mine: Write) -> None:
    of = spec(steps=4)
    trained = (run(tmp_path, of).training() or {})["code"]
    assert {"models/encoders/conv.py", "bench/losses/mse.py", "bench/outputs/gaussians.py"} <= trained.keys()
    assert changed_sources(of, trained) == []
    assert changed_sources(of, trained | {"models/heads/linear.py": "0" * 16}) == ["models/heads/linear.py"]
    assert changed_sources(of, trained | {"bench/outputs/gaussians.py": "0" * 16}) == ["bench/outputs/gaussians.py"]
    assert changed_sources(of, {}) == []  # trained before code was recorded
    assert (
        changed_sources(of, {"models/encoders/conv.py": trained["models/encoders/conv.py"]}) == []
    )  # before imports were

    mine(ENCODER)
    cls = spec_fields.spec_class_of("model.encoder", "mine")
    edited = replace(of, model=replace(of.model, encoder=cls()))
    before = source_hashes(edited)
    Path(sys.modules[cls.__module__].__file__ or "").write_text(ENCODER + "# edited")
    assert changed_sources(edited, before) == ["models/encoders/mine.py"]


def test_an_edit_of_what_a_part_imports_is_noticed(tmp_path: Path) -> None:
    """In a copy of the source: shared layers, what joins the parts, scenes made by a module two imports away, C++."""
    source = ROOT
    for package in ("models", "bench", "ablations"):
        shutil.copytree(source / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import json, sys; from bench.config import load; "
        "from bench.config.source_hash import changed_sources, source_hashes; "
        "spec = load('ablations/base/ours1.yaml').runs[0].spec; before = json.load(sys.stdin); "
        "print(json.dumps(changed_sources(spec, before) if before else source_hashes(spec)))"
    )

    def query(before: object) -> Any:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""},
                              input=json.dumps(before), capture_output=True, text=True, check=True)  # fmt: skip
        return json.loads(done.stdout)

    before = query({})
    edited = ["bench/data/procedural/shapes.py", "models/ead.py", "models/layers.py"]
    edited = sorted(
        [*edited, *(str(path.relative_to(tmp_path)) for path in tmp_path.glob("bench/rendering/csrc/*.cpp"))]
    )
    for name in (*edited, "bench/run.py", "bench/common/errors.py"):
        comment = "//" if name.endswith(".cpp") else "#"
        (tmp_path / name).write_text((tmp_path / name).read_text() + f"\n{comment} edited\n")
    assert len(edited) > 3 and query(before) == edited


BUFFERED = (
    ENCODER.replace("return nn.Identity()", "return Encoder(self)")
    + """
class Encoder(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.project = nn.Conv2d(3, spec.width, spec.patch, spec.patch)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]), persistent=False)
        self.register_buffer("steps", torch.tensor(7))
        self.waves = [torch.linspace(0, 1, spec.width)]
        self.project.bias.requires_grad_(False)

    def forward(self, views):
        batch, count = views.images.shape[:2]
        x = self.project(views.images.flatten(0, 1) - self.mean[:, None, None])
        return Tokens(x.movedim(1, -1).unflatten(0, (batch, count)) + self.waves[0])
"""
)


def test_a_loaded_model_equals_the_saved_one(mine: Write, tmp_path: Path) -> None:
    """Tensors that are no part of the state dict (buffers, plain attributes) have their values, too."""
    mine("import torch\nfrom models.tensors import Tokens\n" + BUFFERED)
    views = Views(torch.rand(1, 2, 3, 16, 16))
    mine_spec = importlib.import_module("models.encoders.mine").Spec()
    for model in (spec().model, replace(spec().model, encoder=mine_spec)):
        built = model.build(3).eval()
        weights.save_spec(built, tmp_path / weights.SPEC_FILE)
        weights.save_weights(built, tmp_path / weights.WEIGHTS_FILE)
        before = torch.random.get_rng_state()
        loaded = weights.load(tmp_path)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert not loaded.training and loaded.state_dict().keys() == built.state_dict().keys()
        for (name, one), (_, other) in zip(loaded.named_parameters(), built.named_parameters(), strict=True):
            assert (one.dtype, one.requires_grad, one.device) == (other.dtype, other.requires_grad, other.device), name
        with torch.no_grad():
            torch.testing.assert_close(loaded(views).means, built(views).means, rtol=0, atol=0)


class Random(TorchDispatchMode):
    """Counts the numbers drawn."""

    drawn = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and result.device.type != "meta":
            self.drawn += result.numel()
        return result


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    built = spec().model.build(3)
    weights.save_spec(built, tmp_path / weights.SPEC_FILE)
    weights.save_weights(built, tmp_path / weights.WEIGHTS_FILE)
    with Random() as random:
        weights.load(tmp_path)
    assert random.drawn == 0
    with Random() as random:
        spec().model.build(3)
    assert random.drawn > 1000
