"""`train.keep: best`: the weights with the best validation PSNR, kept until training ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import outputs, protocols
from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.data.sampler import Sampler
from bench.evaluation import metrics
from bench.evaluation.evaluate import predict
from bench.evaluation.scores import Scores
from bench.protocols import Protocol
from bench.runs.folder import BEST, BEST_STATE, RunFolder
from bench.runs.writer import Writer
from bench.runtime import numerics
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

SCENES = 4  # of a forward pass


class BestCheckpoint:
    """Validates a model `train.validations` times, evenly spaced, the last time after the last step."""

    def __init__(self, spec: RunSpec, sampler: Sampler, writer: Writer) -> None:
        """Resumes from the best checkpoint of the run folder. Raises UserError when there are no validation scenes."""
        count = spec.train.validations if spec.train.keep == "best" else 0
        self.steps = {max(1, spec.train.steps * i // count) for i in range(1, count + 1)}
        self.scenes = sampler.source.scenes("validation")[: spec.evaluation.scenes]
        if self.steps and not self.scenes:
            raise UserError("train.keep: best needs validation scenes, and the data has none; use train.keep=last")
        if self.steps and "rendering" not in outputs.of_kind(spec.model.output.kind).capabilities(spec.model):
            raise UserError(
                f"train.keep: best compares renderings; output {spec.model.output.name} has none: use train.keep=last"
            )
        self.sampler, self.writer, self.protocol = sampler, writer, protocols.get(spec.evaluation.protocols[0])
        best = RunFolder(writer.folder).best()
        self.psnr = best["validation_psnr"] if best else float("-inf")

    def maybe_validate(self, step: int, trained: Callable[[], AbstractContextManager[EAD]]) -> dict[str, float]:
        """{"validation_psnr": dB} if a validation is due after `step` steps, else {}; the best weights are saved.

        They are of the model that `trained` gives.
        """
        if step not in self.steps:
            return {}
        with trained() as model:
            return {"validation_psnr": self.validate(step, model)}

    def validate(self, step: int, model: EAD) -> float:
        """In dB; the weights are saved if none were better."""
        psnr = validation_psnr(model, self.sampler, self.scenes, self.protocol)
        if psnr > self.psnr:
            self.psnr = psnr

            def write(folder: Path) -> None:
                folder.mkdir()
                weights.save_weights(model, folder / weights.WEIGHTS_FILE)
                write_json(folder / BEST_STATE, {"step": step, "protocol": self.protocol.key, "validation_psnr": psnr})

            self.writer.commit(BEST, write)
        return psnr


@numerics.evaluation_precision()
def validation_psnr(model: EAD, sampler: Sampler, scenes: Sequence[str], protocol: Protocol) -> float:
    """The protocol's PSNR of these scenes in dB: views, background, clipping and means are those of evaluation."""
    device = next(model.parameters()).device
    model.eval()
    scores = Scores()
    for batch in sampler.evaluation_batches(scenes, SCENES, protocol.background_gray):
        batch = batch.to(device)
        rendering = predict(model, batch)[1]
        assert rendering is not None  # BestCheckpoint refuses models that render nothing
        scores.add(batch.scenes, {"psnr": metrics.psnr(rendering.rgb, batch.targets, protocol)})
    model.train()
    mean = scores.to_dict()["means"]["psnr"]
    return math.nan if mean is None else float(mean)
