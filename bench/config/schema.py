"""The resolved spec: everything that decides what a run is, typed. `bench.config.load` makes it from YAML.

Defaults are the paper's (PAPER.md: training, data; what the paper leaves open follows the first author's later public
trainer and NoPoSplat). `sizes` says what the scales `tiny` and `small` change. A field whose metadata says
`identity: False` is no part of a run's id; with `identity: given`, only whether it is set is (a path that decides a
split); one added later carries `legacy`, the value at which it stays out of the id. Fields of `COST` are part of the
ids of runs with `study: cost` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from bench.data.view_selection import ViewsSpec
from models.ead import EADSpec
from models.parts import PartSpec
from models.weights import WEIGHTS_FILE

Sizes = Mapping[str, Mapping[str, object]]
NOT_IDENTITY: Mapping[str, Any] = {"identity": False}
COST: Mapping[str, Any] = {"identity": False, "cost": True}  # decides what a step costs, not what it computes


@dataclass(frozen=True)
class PartTraining:
    """Of one part: whether its weights stay as `init` gives them, and its learning rate relative to the others'."""

    freeze: bool = field(default=False, metadata={"legacy": False})
    rate: float = field(default=1.0, metadata={"legacy": 1.0})


@dataclass(frozen=True)
class PartsSpec:
    """How each part is trained; parts at their defaults are no part of a run's id."""

    encoder: PartTraining = field(default=PartTraining(), metadata={"legacy": PartTraining()})
    aggregator: PartTraining = field(default=PartTraining(), metadata={"legacy": PartTraining()})
    head: PartTraining = field(default=PartTraining(), metadata={"legacy": PartTraining()})


Recompute = Literal["none", "selective", "block"]
Regime = Literal["paper", "lean"]


@dataclass(frozen=True)
class RecomputeSpec:
    """Of each part: which activations of its blocks are computed again in the backward pass instead of being kept.

    `block`: all but the block's input; `selective`: all but that and what attention gives.
    """

    encoder: Recompute = "none"
    aggregator: Recompute = "none"
    head: Recompute = "none"


@dataclass(frozen=True)
class TrainSpec:
    steps: int = 200_000  # 0: nothing is trained, what `init` gives is evaluated
    batch: int = 32  # scenes a step, over all ranks and micro-batches
    regime: Regime = field(default="paper", metadata=NOT_IDENTITY)  # what fields are where nothing sets them (REGIMES)
    micro_batch: int | None = field(default=None, metadata=COST)  # scenes a forward pass; None: all of a rank's
    recompute: RecomputeSpec = field(default=RecomputeSpec(), metadata=COST)  # saves memory, not time
    views_at_once: int | None = field(default=None, metadata=COST)  # target views rendered and scored; None: all
    head_views: int | None = field(default=None, metadata=COST)  # input views that D takes at once; None: all
    fused_qkv: bool = field(default=False, metadata=COST)  # attention's three projections as one matrix product
    shard: bool = field(default=False, metadata=COST)  # FSDP2: weights, gradients and moments spread over the ranks
    learning_rate: float = 5.0e-5
    final_learning_rate: float = 5.0e-6
    warmup_steps: int = 2000
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    gradient_clip: float = 0.5
    geometry_first: float = 0.0  # share of the steps, from the first, with L_3D alone
    matmul_precision: Literal["highest", "high", "medium"] = "medium"  # of fp32 parts on CUDA (TF32)
    compile: bool = False
    checkpoint_every: int = field(default=2000, metadata=NOT_IDENTITY)  # steps
    tensorboard: bool = field(
        default=False, metadata=NOT_IDENTITY
    )  # scalars and previews (bench/training/tensorboard.py)
    keep: Literal["last", "best"] = field(default="last", metadata={"legacy": "last"})  # best: in validation PSNR
    validations: int = field(default=10, metadata={"legacy": 10})  # for `keep: best`, evenly spaced over the steps
    ema: float | None = field(default=None, metadata={"legacy": None})  # decay of the moving average that is kept
    parts: PartsSpec = field(default=PartsSpec(), metadata={"legacy": PartsSpec()})

    sizes: ClassVar[Sizes] = {
        "tiny": {
            "steps": 600, "batch": 8, "learning_rate": 3.0e-3, "final_learning_rate": 2.0e-5, "warmup_steps": 20,
            "gradient_clip": 1.0, "geometry_first": 0.2, "matmul_precision": "highest", "checkpoint_every": 100,
        },
        "small": {"steps": 3000, "batch": 16, "learning_rate": 4.0e-4, "final_learning_rate": 5.0e-6,
                  "warmup_steps": 100, "checkpoint_every": 500},
    }  # fmt: skip


def cost_switches(train: TrainSpec) -> dict[str, Any]:
    """The fields of COST, ready for JSON."""
    values = asdict(train)
    return {f.name: values[f.name] for f in fields(TrainSpec) if "cost" in f.metadata}


REGIMES: Mapping[Regime, Mapping[str, object]] = {  # field → value, above its default and below all else
    "paper": {},  # the defaults: every activation is kept, E in fp32
    "lean": {
        "model.precision.encoder": "bf16",
        "train.recompute.encoder": "selective",
        "train.recompute.aggregator": "selective",
        "train.recompute.head": "block",
        "train.head_views": 1,
        "train.views_at_once": 1,
        "train.fused_qkv": True,
    },
}


@dataclass(frozen=True)
class WeightsFile:
    """A file of the user's: a published checkpoint, or the folder of a run (or its weights.safetensors).

    Its content is verified against `sha256` when a run starts.
    """

    weights: str = field(metadata=NOT_IDENTITY)
    sha256: str | None = None  # None: not declared yet; the run refuses to start and says the value


def is_run_path(weights: str) -> bool:
    """Whether a path reads like a run's folder or its weights.safetensors, and not like a published checkpoint."""
    path = PurePath(weights)
    return not path.suffix or path.name == WEIGHTS_FILE


@dataclass(frozen=True)
class FromRun:
    """The same part (or the whole model) of another run of the sweep, by the name it has there; `id` is filled in when
    the graph is made."""

    run: str = field(metadata=NOT_IDENTITY)
    id: str = ""


@dataclass(frozen=True)
class Shipped:
    """Weights that ship with the code (models/pretrained/), by name; `sha256` is filled in from their card."""

    shipped: str = field(metadata=NOT_IDENTITY)
    sha256: str = ""


InitPart = Literal["scratch"] | WeightsFile | FromRun | Shipped


@dataclass(frozen=True)
class InitSpec:
    """Part by part, or the whole `model` from one source; with `train.steps: 0` that is what is evaluated."""

    encoder: InitPart = "scratch"
    aggregator: InitPart = "scratch"
    head: InitPart = "scratch"
    model: InitPart = field(default="scratch", metadata={"legacy": "scratch"})


@dataclass(frozen=True)
class EvaluationSpec:
    protocols: tuple[str, ...] = ("per_image_white",)
    scenes: int | None = None  # the first of the evaluation split; None: all

    sizes: ClassVar[Sizes] = {"tiny": {"scenes": 32}, "small": {"scenes": 100}}


@dataclass(frozen=True)
class ProfileSpec:
    """What is looked at beside the numbers of every profile; no part of what a run is."""

    trace: bool = False  # a torch.profiler trace and time by part (bench/profiling/trace.py)


@dataclass(frozen=True)
class RunSpec:
    """One run, resolved. Its canonical JSON's hash is the run's id (bench/config/run_id.py)."""

    model: EADSpec
    data: PartSpec  # bench/data/sources/: procedural, gobjaverse
    views: ViewsSpec
    losses: Mapping[str, PartSpec]  # bench/losses/: mse (L_m), lpips (L_l), points (L_3D), each with its `weight`
    train: TrainSpec = TrainSpec()
    init: InitSpec = InitSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = 0
    study: Literal["quality", "cost"] = field(
        default="quality", metadata={"legacy": "quality"}
    )  # cost: COST tells apart
    profile: ProfileSpec = field(default=ProfileSpec(), metadata=NOT_IDENTITY)
