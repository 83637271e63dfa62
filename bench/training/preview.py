"""preview.png: the first evaluation scene as the model renders it now, drawn while the run trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.evaluation.evaluate import predict
from bench.evaluation.metrics import first_view_depth
from bench.evaluation.samples import pixels
from bench.runs.writer import Writer
from models.ead import EAD
from models.tensors import Pixels

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

FILE = "preview.png"
STEP = "step"  # key of the file's text
FIRST_STEPS = 20  # the first preview is drawn after so many steps of a session, or after INTERVAL_S if that is earlier
INTERVAL_S = 30.0
MAX_SHARE = 0.01  # of the time: the next preview waits until drawing has cost no more
TILE, MARGIN, HEADER = 128, 2, 18  # pixels; smaller images are enlarged
CANDIDATES = 16  # scenes tried if the first ones are broken


class Preview:
    """Draws at most every 30 s and at most 1 % of the time. The drawing changes neither the model nor its training."""

    def __init__(self, spec: RunSpec, sampler: Sampler, writer: Writer) -> None:
        self.steps, self.sampler, self.writer = spec.train.steps, sampler, writer
        self.scenes = list(sampler.evaluation_scenes(CANDIDATES))
        self.remaining_steps, self.next_time = FIRST_STEPS, time.monotonic() + INTERVAL_S
        self.batch: Batch | None = None

    def maybe_draw(self, step: int, trained: Callable[[], AbstractContextManager[EAD]]) -> None:
        """Write the preview after step 1, 2, … if one is due, of the model that `trained` gives."""
        self.remaining_steps -= 1
        started = time.monotonic()
        if self.remaining_steps and started < self.next_time:
            return
        self.remaining_steps = 0
        self.batch = self.batch or next(self.sampler.evaluation_batches(self.scenes, 1), None)
        if self.batch is None:  # every candidate is broken
            self.next_time = float("inf")
            return
        with trained() as model:
            batch = self.batch.to(next(model.parameters()).device)
            image = draw(model, batch, f"step {step} of {self.steps}")
        self.writer.commit(FILE, lambda path: save(image, path, step))
        finished = time.monotonic()
        self.next_time = finished + max(INTERVAL_S, (finished - started) / MAX_SHARE)


def save(image: Image.Image, path: Path, step: int) -> None:
    """As PNG, whose text says of which step it is."""
    text = PngInfo()
    text.add_text(STEP, str(step))
    image.save(path, format="png", pnginfo=text)


def draw(model: EAD, batch: Batch, title: str) -> Image.Image:
    """Rows of the batch's first scene: inputs, true targets, renderings and their depth (near is bright).

    A model that renders nothing shows the depth of its points, or its images.
    """
    training = model.training
    model.eval()
    output, rendering = predict(model, batch)
    model.train(training)
    rows = {"inputs": pixels(batch.inputs.images[0]), "truth": pixels(batch.targets[0])}
    points = outputs.of(output).surface_points(output)
    if rendering is not None:
        rows |= {"rendering": pixels(rendering.rgb[0]), "depth": _depth(rendering.depth[0], rendering.alpha[0] > 0.5)}
    elif points is not None:
        depth = first_view_depth(points, batch)
        rows["depth of the first input"] = _depth(depth, batch.input_mask[:1, 0])
    elif isinstance(output, Pixels):
        rows["output"] = pixels(output.images[0])
    return grid(rows, title)


def grid(rows: dict[str, NDArray[np.uint8]], title: str) -> Image.Image:
    """Rows of images (view, height, width, 3) in 0…255, each row below its name."""
    columns = max(len(images) for images in rows.values())
    size = max(TILE, *(images.shape[2] for images in rows.values()))
    step_x, step_y = size + MARGIN, size + HEADER
    canvas = Image.new("RGB", (columns * step_x + MARGIN, len(rows) * step_y + HEADER), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill="black")
    for row, (name, images) in enumerate(rows.items()):
        top = HEADER + row * step_y
        pen.text((MARGIN, top + MARGIN), name, fill="black")
        for column, image in enumerate(images):
            tile = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * step_x, top + HEADER - MARGIN))
    return canvas


def _depth(depth: Tensor, mask: Tensor) -> NDArray[np.uint8]:
    """(view, height, width), twice → gray pixels (view, height, width, 3): 255 nearest, 64 farthest, 0 outside."""
    inside = mask & depth.isfinite()
    if not inside.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = depth[inside].min(), depth[inside].max()
    gray = 255 - 191 * (depth - near) / (far - near).clamp(min=1e-6)
    pixels: NDArray[np.uint8] = (
        torch.where(inside, gray, 0).clamp(0, 255).byte()[..., None].expand(-1, -1, -1, 3).cpu().numpy()
    )
    return pixels
