"""Model, optimizer and loss terms of one run, and one step of the paper's recipe (§2.6, §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import outputs
from bench.common.errors import UserError
from bench.data.batch import Batch
from bench.losses import LossSpec, NotAvailable, Prediction, Term
from bench.rendering import Rendering
from bench.runtime import numerics
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.runtime.shapes import to_device
from bench.training import diagnostics, ema, initialization, optimizer, sharding
from bench.training.recompute import save_activations
from models.ead import EAD
from models.phases import mark_backward, phase

if TYPE_CHECKING:
    from bench.config.schema import RunSpec


class Trainer:
    """What one run trains, and how. Sets the global numeric state of torch."""

    def __init__(
        self, spec: RunSpec, device: torch.device, ranks: DistributedContext = SINGLE_PROCESS, runs: Path | None = None
    ) -> None:
        """`runs` holds the folders of other runs, for `init`. Raises UserError."""
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        self.spec, self.ranks = spec, ranks
        self.model: EAD = to_device(initialization.build(spec, runs), device).train()
        optimizer.freeze(self.model, spec.train)
        save_activations(self.model, spec.train)
        if spec.train.shard and ranks.world_size > 1:
            sharding.shard(self.model, device, ranks.world_size)
        if spec.train.compile:
            compile_parts(self.model)
        self.optimizer = optimizer.build(self.model, spec.train)
        self.parameters = {name: list(part.parameters()) for name, part in self.model.parts().items()}  # walks are slow
        self.clipped_together = sharding.split_by_layout(p for of_part in self.parameters.values() for p in of_part)
        self.losses = {name: loss for name, loss in spec.losses.items() if isinstance(loss, LossSpec) and loss.weight}
        self.terms: Mapping[str, Term] = {name: loss.build(device) for name, loss in self.losses.items()}
        self.renders = any("rendering" in loss.needs for loss in self.losses.values())

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Forward, backward, update: step 0, 1, … on this rank's scenes. Returns the values to record, unread."""
        with phase("optimizer"):
            optimizer.set_learning_rate(self.optimizer, step, self.spec.train)
            self.optimizer.zero_grad(set_to_none=True)
        values = self.accumulate(step, batch)
        with phase("exchange"):
            values = self.ranks.reduce(values)
            self.ranks.reduce_gradients(self.model)
        with phase("optimizer"):
            norms = diagnostics.gradient_norms(self.parameters)
            norm = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            for parameters in self.clipped_together:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.train.gradient_clip, norm)
            self.update(step, norm)
        return values | norms

    def update(self, step: int, gradient_norm: Tensor) -> None:
        """The weights, unless the norm of all gradients is NaN or infinite, and what `train.ema` keeps of them."""
        self.optimizer.update(gradient_norm)
        if self.spec.train.ema:
            ema.update(self.optimizer, step, self.spec.train.ema)

    @contextmanager
    def trained(self) -> Iterator[EAD]:
        """The model as the run would keep it now: with `train.ema` its weights are their averages here. It is not
        compiled, which it would be once more for other shapes than those of a step."""
        with ema.averaged(self.optimizer), torch.compiler.set_stance("force_eager"):
            yield self.model

    def accumulate(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """The batch's share of the step's losses, micro-batch by micro-batch, each backpropagated."""
        size = self.spec.train.micro_batch or len(batch.scenes)
        totals: dict[str, Tensor] = {}
        for start in range(0, len(batch.scenes), size):
            part = batch if size >= len(batch.scenes) else batch.scenes_at(start, start + size)
            for name, value in self.backward(step, part).items():
                totals[name] = totals[name] + value if name in totals else value
        return totals

    def backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Eq. 6 for some of the step's scenes: the sum of their values, divided by the scenes of the whole step."""
        patch = self.spec.model.encoder.tokens().patch
        with phase("losses"):
            for loss in self.losses.values():
                batch = loss.prepare(batch, patch=patch, seed=self.spec.seed, step=step)
        output = self.model(batch.inputs)
        renders = self.renders and step >= optimizer.geometry_steps(self.spec.train)
        weights = {
            name: weight
            for name, loss in self.losses.items()
            if (weight := loss.weight_at(step)) and (renders or "rendering" not in loss.needs)
        }
        if renders and self.spec.train.views_at_once:
            values = self.backward_by_views(output, batch, weights, self.spec.train.views_at_once)
        else:
            prediction = Prediction(output, self.render(output, batch) if renders else None)
            total, values = self.score(prediction, batch, weights)
            with phase("backward"):
                torch.autograd.backward(total)
        if step % diagnostics.EVERY == 0:
            with phase("statistics"):
                statistics = diagnostics.output_statistics(output, batch, self.spec.model.output)
            values |= {name: value / self.spec.train.batch for name, value in statistics.items()}
        return values

    def backward_by_views(
        self, output: Any, batch: Batch, weights: Mapping[str, float], at_once: int
    ) -> dict[str, Tensor]:
        """So many target views at a time are rendered, scored and backpropagated to the output, whose gradient then
        goes through the model, once."""
        tensors = {name: value for name, value in vars(output).items() if isinstance(value, Tensor)}
        leaves = {name: value.detach().requires_grad_(value.requires_grad) for name, value in tensors.items()}
        detached, views = replace(output, **leaves), batch.targets.shape[1]
        groups = [batch.targets_at(start, start + at_once) for start in range(0, views, at_once)]
        rendered = {name: weight for name, weight in weights.items() if "rendering" in self.losses[name].needs}
        others = {name: weight for name, weight in weights.items() if name not in rendered}
        sums: dict[str, Tensor] = {}
        for group in groups if rendered else []:
            share = group.targets.shape[1] / views
            total, values = self.score(Prediction(detached, self.render(detached, group)), group, rendered)
            with phase("backward"):
                torch.autograd.backward(total * share)
            sums = {name: sums.get(name, 0.0) + share * value for name, value in values.items()}
        roots = [tensors[name] for name, leaf in leaves.items() if leaf.grad is not None]
        gradients = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
        if others:
            total, values = self.score(Prediction(output), batch, others)
            sums |= values | {"loss": sums.get("loss", 0.0) + values["loss"]}
            roots, gradients = [*roots, total], [*gradients, torch.ones_like(total)]
        with phase("backward"):
            torch.autograd.backward(roots, gradients)
        return sums

    def score(
        self, prediction: Prediction, batch: Batch, weights: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of these terms over scenes, divided by the scenes of the whole step; values to record."""
        with phase("losses"):
            losses = {name: self.term(name, prediction, batch).sum() / self.spec.train.batch for name in weights}
            total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return total, {"loss": total.detach()} | {f"loss/{name}": value.detach() for name, value in losses.items()}

    def term(self, name: str, prediction: Prediction, batch: Batch) -> Tensor:
        """A loss term, one value a scene. Raises UserError where it reads what it does not name in `needs`."""
        try:
            return self.terms[name](prediction, batch)
        except NotAvailable as error:
            raise UserError(
                f"bench/losses/{name}.py: {error}: name {error.capability!r} in the `needs` of its Spec"
            ) from error

    def render(self, output: Any, batch: Batch) -> Rendering | None:
        """The output in the target cameras."""
        with phase("rasterize"):
            rendering = outputs.of(output).render(output, batch.target_cameras, batch.background)
        if rendering is not None:
            mark_backward("rasterize", vars(rendering))
        return rendering


def compile_parts(model: EAD) -> None:
    """E, A, D and the output each by itself, so that phases keep their borders."""
    for part in (model.encoder, model.aggregator, model.head, model.output):
        part.compile()
