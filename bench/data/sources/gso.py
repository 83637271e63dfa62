"""Google Scanned Objects as LaRa renders and publishes them: ROOT/<object>/transforms.json, r_000.png, depth/r_000.pfm.

Protocol `lara` (LaRa's evaluation, dataLoader/google_scanned_objects.py): every object, K-means of all its cameras into
4 clusters, the first view of each as input, the last as target: `views.choice=lara views.inputs=4 views.targets=4`.
512 px, lengths are G-Objaverse's. FreeSplatter and GS-LRM evaluate on renderings of their own, which they do not
publish; such renderings are read when they are written in this form.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.data.storage.transforms import Layout, TransformsSpec


@dataclass(frozen=True)
class Spec(TransformsSpec):
    """`transform_matrix` is camera-to-world with OpenGL's axes, `intrinsic_matrix` in pixels."""

    def layout(self) -> Layout:
        return Layout(("{path}", "r_{index:03d}", "{name}"), "depth/{name}.pfm")
