"""Shapes are checked in tests, and only there: every annotation of `models` and `bench.rendering` is enforced.

The hook rewrites modules as they are imported, so it comes before any test. tests/test_shapes.py holds the canary.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number serves where a float is wanted
install_import_hook(["models", "bench.rendering"], "conftest.check")
