"""`train.keep: best`: the weights that did best on the validation split, kept until training ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench import protocols
from bench.data.sampler import Sampler
from bench.errors import BadInput
from bench.metrics import psnr
from bench.protocols import Protocol
from bench.record import BEST, BEST_STATE, RunFolder, Writer, write_json
from bench.rendering import render
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.spec.schema import RunSpec

SCENES = 4  # of a forward pass


class Best:
    """Looks at a model `train.validations` times, evenly spaced, the last time after the last step."""

    def __init__(self, spec: RunSpec, sampler: Sampler, writer: Writer) -> None:
        """Goes on from what the run folder holds. Raises BadInput when there are no validation scenes."""
        count = spec.train.validations if spec.train.keep == "best" else 0
        self.steps = {max(1, spec.train.steps * i // count) for i in range(1, count + 1)}
        self.scenes = sampler.source.scenes("validation")[: spec.evaluation.scenes]
        if self.steps and not self.scenes:
            raise BadInput("train.keep: best needs validation scenes, and the data has none; use train.keep=last")
        self.sampler, self.writer, self.protocol = sampler, writer, protocols.get(spec.evaluation.protocols[0])
        found = RunFolder(writer.folder).best()
        self.psnr = found["validation_psnr"] if found else float("-inf")

    def look(self, step: int, model: EAD) -> dict[str, float]:
        """{"validation_psnr": dB} after `step` steps if that is one to look at, else {}; what beats all is kept."""
        if step not in self.steps:
            return {}
        found = {"validation_psnr": validation_psnr(model, self.sampler, self.scenes, self.protocol)}
        if found["validation_psnr"] > self.psnr:
            self.psnr = found["validation_psnr"]

            def write(folder: Path) -> None:
                folder.mkdir()
                weights.save_weights(model, folder / weights.WEIGHTS_FILE)
                write_json(folder / BEST_STATE, {"step": step, "protocol": self.protocol.key, **found})

            self.writer.commit(BEST, write)
        return found


@torch.no_grad()
def validation_psnr(model: EAD, sampler: Sampler, scenes: Sequence[str], protocol: Protocol) -> float:
    """Mean PSNR of these scenes' target views under the protocol, in dB; views are chosen as in evaluation."""
    device = next(model.parameters()).device
    model.eval()
    values = []
    for batch in (found.to(device) for found in sampler.evaluation_batches(scenes, SCENES)):
        drawn = render(model(batch.inputs), batch.target_cameras, batch.background).rgb
        values.append(psnr(drawn, batch.targets, protocol.psnr_cap).flatten())
    model.train()
    return float(torch.cat(values).mean())
