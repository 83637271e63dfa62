"""OmniObject3D's own renderings, of which FreeSplatter's evaluation takes its objects.

`blender_renders`: ROOT/<object>/render/{transforms.json, images/r_0.png, depths/r_0_depth.exr}.
`blender_renders_24_views`: ROOT/<object>/{transforms.json, 000.png}, without depth.
The data set fixes no inputs: `views.choice=lara` takes the first and the last view of each K-means cluster, as LaRa
does; FreeSplatter and GS-LRM render views of their own, which they do not publish.
Objects fill [−1, 1]³ there, the longest side is 0.9 here.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.data.storage.transforms import Layout, TransformsSpec

UNIT = 0.45


@dataclass(frozen=True)
class Spec(TransformsSpec):
    """`transform_matrix` is camera-to-world with OpenGL's axes, `camera_angle_x` in radians."""

    def layout(self) -> Layout:
        return Layout(("{path}", "images/{name}", "{name}"), "depths/{name}_depth.exr", UNIT)
