"""The evaluation stage: a trained model under one protocol → `evals/<protocol>@<version>.json` and `samples/`.

Scenes are cut into chunks of a fixed size, and the chunks are dealt to the ranks. A chunk is computed the same way
whatever the number of ranks, and is recorded once it is scored: one process, several, and an evaluation that was killed
and resumed give the same numbers to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

import models
from bench import outputs, protocols
from bench.common.console import progress
from bench.common.errors import NonFinite, UserError
from bench.common.json_files import write_json
from bench.config.schema import RunSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import DataSource
from bench.data.storage import broken
from bench.evaluation import baselines, metrics, partial_results, samples, without_pictures
from bench.evaluation.partial_results import PartialResults
from bench.evaluation.scene_record import resolve_splits, verify_unchanged
from bench.evaluation.scores import Scores, defects
from bench.protocols import Protocol
from bench.rendering import Rendering
from bench.runs.folder import RunFolder
from bench.runs.writer import Writer
from bench.runtime import numerics, provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from models.ead import EAD, count_parameters
from models.parts import PartSpec

PIXELS = 2**17  # target pixels a forward pass, so that 256² images do not fill the memory
MAX_SCENES = 8  # a forward pass
AHEAD = 2  # batches read while another is computed
MAX_DEFECTS = 5  # named in an error

Record = Mapping[str, Any]  # of a chunk, ready for JSON: see `score_batch`


def evaluate_missing(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Evaluate under those of the spec's protocols, and with those numbers of inputs, that have no result yet; every
    rank calls this. See `evaluate`."""
    finished = RunFolder(writer.folder).evaluations()
    requested = protocols.evaluations(spec.evaluation.protocols, spec.views.other_inputs)
    for key in ranks.broadcast([key for key in requested if key not in finished]):
        name, inputs = requested[key]
        evaluate(spec, writer, device=device, source=source, protocol=name, inputs=inputs, ranks=ranks)


def evaluate(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    protocol: str = "per_image_white",
    inputs: int | None = None,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Evaluate the model of `writer.folder`; commits samples, then the result. With another number of `inputs` than it
    was trained with there are no samples, and the result's key says so.

    Raises UserError, and NonFinite for a model whose output or metrics are NaN or infinite: such a scene is a defect,
    and is not left out of the means.
    """
    chosen = protocols.get(protocol)
    started = time.perf_counter()
    numerics.configure(device, numerics.EVALUATION_PRECISION, spec.seed)
    this = provenance.of_stage(spec.model.precision, device)
    model = models.load(writer.folder, device)
    key, views = chosen.key_of(inputs), replace(spec.views, inputs=inputs or spec.views.inputs)
    sampler = Sampler(source, views, spec.seed, spec.model.known)
    verify_unchanged(resolve_splits(spec, source), RunFolder(writer.folder), source)
    chunks = chunks_of(spec, sampler)
    measure = metrics.ImageMetrics(chosen, device)
    partial = None
    if ranks.is_first:
        partial = PartialResults(writer, key, partial_results.header(spec, writer.folder, this, chunks))

    scorer = Scorer(model, sampler, chunks, measure, device, spec.losses)
    resumed = len(partial.finished) if partial else 0
    records = score_chunks(scorer, partial, ranks)
    if not ranks.is_first or partial is None:
        return
    result = combine(model, records, chosen)
    if not result["scenes"]:
        raise UserError(
            f"data: none of {sum(map(len, chunks))} evaluation scenes can be used:\n{broken.table(sampler.broken)}"
        )
    if inputs is None and (images := first_samples(model, map(scorer.read, range(len(chunks))), device)):
        writer.commit(samples.FOLDER, lambda folder: samples.save(folder, images))
    result |= {
        "missing": measure.missing,
        "data": spec.data.to_dict(),
        "frame": spec.views.frame,
        "image_size": spec.model.image_size,
        "provenance": this,
        "device": str(device),
        "world": ranks.world_size,
        "resumed_chunks": resumed,
        "seconds": round(time.perf_counter() - started, 3),
    }
    writer.commit(f"evals/{key}.json", lambda path: write_json(path, result))
    partial.remove()


def chunks_of(spec: RunSpec, sampler: Sampler) -> list[list[str]]:
    """The evaluation scenes in order, cut into forward passes: a matter of the spec alone."""
    scenes = list(sampler.evaluation_scenes(spec.evaluation.scenes))
    views = max(spec.views.targets, sampler.views.inputs if sampler.views.inputs != spec.views.inputs else 0)
    size = min(MAX_SCENES, max(1, PIXELS // (views * spec.model.image_size**2)))
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]


@dataclass(frozen=True)
class Scorer:
    """Reads and scores the chunks of one evaluation, by number."""

    model: EAD
    sampler: Sampler
    chunks: Sequence[Sequence[str]]
    measure: metrics.ImageMetrics
    device: torch.device
    losses: Mapping[str, PartSpec]

    def read(self, number: int) -> Batch | None:
        """On the CPU, on the protocol's background; None where no scene of the chunk can be used."""
        scenes, background = self.chunks[number], self.measure.protocol.background_gray
        batch = next(self.sampler.evaluation_batches(scenes, len(scenes), background), None)
        patch = self.model.spec.encoder.tokens().patch
        return None if batch is None else without_pictures.prepare(self.losses, batch, patch)

    def score(self, number: int, batch: Batch | None) -> Record:
        broken_scenes = {name: self.sampler.broken[name] for name in self.chunks[number] if name in self.sampler.broken}
        values = {} if batch is None else score_batch(self.model, batch.to(self.device), self.measure, self.losses)
        return {"chunk": number, "broken": broken.rows(broken_scenes), **values}


def score_chunks(scorer: Scorer, partial: PartialResults | None, ranks: DistributedContext) -> list[Record]:
    """Score the chunks that are not finished, one a rank at a time. Returns all records, in order, to the first rank.

    After each round the ranks exchange their records, and the first writes them. Raises NonFinite, on every rank.
    """
    finished = set(map(int, ranks.broadcast([str(number) for number in partial.finished] if partial else [])))
    count = len(scorer.chunks)
    remaining = [number for number in range(count) if number not in finished]
    world = ranks.world_size
    batches = prefetch(scorer.read, remaining[ranks.rank :: world])
    title = f"evaluating {count} batches of scenes"
    with progress(title, count, visible=ranks.is_first) as advance:
        advance(len(finished))
        for start in range(0, len(remaining), world):
            number = remaining[start + ranks.rank] if start + ranks.rank < len(remaining) else None
            own: Record = {} if number is None else scorer.score(number, next(batches))
            records = [record for record in ranks.gather(own) if record]
            require_finite(records)
            if partial:
                for record in records:
                    partial.append(record)
            advance(len(records))
    return [partial.finished[number] for number in range(count)] if partial else []


def prefetch(read: Callable[[int], Batch | None], numbers: Sequence[int]) -> Iterator[Batch | None]:
    """The batches in order, read up to AHEAD early by a thread beside the computation."""
    with ThreadPoolExecutor(1, thread_name_prefix="scenes") as pool:
        queue = [pool.submit(read, number) for number in numbers[:AHEAD]]
        for position in range(len(numbers)):
            batch = queue.pop(0).result()
            if position + AHEAD < len(numbers):
                queue.append(pool.submit(read, numbers[position + AHEAD]))
            yield batch


@torch.no_grad()
def predict(model: EAD, batch: Batch) -> tuple[Any, Rendering | None]:
    """The model's output, and its renderings of the target views on the batch's background, if its type has any."""
    output = model(batch.inputs)
    return output, outputs.of(output).render(output, batch.target_cameras, batch.background)


def score_batch(
    model: EAD, batch: Batch, measure: metrics.ImageMetrics, losses: Mapping[str, PartSpec] | None = None
) -> dict[str, Any]:
    """{"views": of each scene, "values": {method: {scene: {metric: of each view}}}, "defects": [texts]}."""
    protocol = measure.protocol
    output, rendering = predict(model, batch)
    foreground = batch.target_alpha > protocol.foreground_alpha
    images = {"model": rendering.rgb} if rendering else {}
    images |= {b.name: b.predict(batch, protocol.foreground_alpha) for b in baselines.baselines_of(protocol)}
    values = measure(images, batch.targets, foreground)
    geometry, defined = metrics.geometry(output, rendering, batch, foreground, model.spec.encoder.tokens().patch)
    others = without_pictures.score(output, rendering, batch, losses or {})
    values = {method: values.get(method, {}) | others.get(method, {}) for method in {**values, **others, "model": None}}
    values["model"] |= geometry
    defined |= {"psnr_foreground": foreground.flatten(2).any(2)}
    scores = {method: Scores() for method in values}
    for method, scored in values.items():
        scores[method].add(batch.scenes, scored)
    shares = zip(batch.scenes, outputs.non_finite(output).tolist(), strict=True)
    bad = [f"{scene}: {share:.2%} of the model's output" for scene, share in shares if share]
    return {
        "views": {
            scene: {"inputs": batch.input_views[i].tolist(), "targets": batch.target_views[i].tolist()}
            for i, scene in enumerate(batch.scenes)
        },
        "values": {method: score.per_view for method, score in scores.items()},
        "defects": bad + defects(batch.scenes, values["model"], defined),
    }


def require_finite(records: Sequence[Record]) -> None:
    """Raises NonFinite naming the scenes whose output or metrics are not finite."""
    if texts := [text for record in records for text in record.get("defects", ())]:
        more = f" and {len(texts) - MAX_DEFECTS} more" if len(texts) > MAX_DEFECTS else ""
        raise NonFinite(f"evaluation: not finite: {'; '.join(texts[:MAX_DEFECTS])}{more}; the model is not scored")


def combine(model: EAD, records: Sequence[Record], protocol: Protocol) -> dict[str, Any]:
    """The result of all chunks, ready for JSON."""
    compared = (*baselines.baselines_of(protocol), *without_pictures.baselines_in(records))
    scores = {name: Scores() for name in ("model", *(baseline.name for baseline in compared))}
    for record in records:
        for method, per_view in record.get("values", {}).items():
            scores[method].per_view |= per_view
    views = {scene: chosen for record in records for scene, chosen in record.get("views", {}).items()}
    return {
        "protocol": protocol.to_dict(),
        "scenes": list(views),
        "views": views,
        "parameters": count_parameters(model),
        **scores["model"].to_dict(),
        "baselines": {b.name: {"label": b.label, "oracle": b.oracle, **scores[b.name].to_dict()} for b in compared},
        "broken": [row for record in records for row in record["broken"]],
    }


def first_samples(model: EAD, batches: Iterator[Batch | None], device: torch.device) -> list[dict[str, Any]]:
    """Arrays of the first scenes, as they were scored; none of a model that renders nothing."""
    images: list[dict[str, Any]] = []
    for batch in batches:
        if batch is not None:
            output, rendering = predict(model, batch := batch.to(device))
            if rendering is None:
                return []
            images += samples.samples_of(batch, output, rendering, samples.SCENES - len(images))
        if len(images) == samples.SCENES:
            break
    return images
