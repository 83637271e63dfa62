"""`--overfit`: training ends as soon as the model passes the check, which is all that the run is for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from bench.data.scene import DataSource
from bench.evaluation import overfit
from bench.runtime import numerics
from models.ead import EAD

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

EVERY = 50  # steps: a check renders all other views of the scenes

log = logging.getLogger(__name__)


def is_due(spec: RunSpec, step: int) -> bool:
    """Whether to check after step 1, 2, …; not where the weights kept are those of another step, or are sharded."""
    checked = spec.views.overfit and spec.train.keep == "last" and not spec.train.shard
    return bool(checked) and step > 0 and step % EVERY == 0


@numerics.evaluation_precision()
def is_memorized(
    spec: RunSpec, source: DataSource, step: int, trained: Callable[[], AbstractContextManager[EAD]]
) -> bool:
    """Whether the model that `trained` gives passes the check. Raises UserError where nothing can be checked."""
    with trained() as model:
        model.eval()
        result = overfit.verdict(spec, model, source)
        model.train()
    log.info("step %d: %s", step, result)
    return result.passed
