"""What each mesh reader reads, only warns about, refuses, or ignores: as data, for the readers and for docs/meshes.md.

read      drawn as the format defines it
ignored   without effect on these renderings: diffuse surfaces, both sides, one light, no motion
warned    drawn without it; the scene's `missing` names it
refused   not rendered: geometry would be missing or wrong; the error names it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

Support = Literal["read", "ignored", "warned", "refused"]

OBJ: Mapping[str, Support] = {  # statements
    "v": "read", "vt": "read", "vn": "read", "f": "read", "fo": "read", "mtllib": "read", "usemtl": "read",
    "o": "ignored", "g": "ignored", "s": "ignored", "lod": "ignored", "bevel": "ignored", "c_interp": "ignored",
    "d_interp": "ignored", "shadow_obj": "ignored", "trace_obj": "ignored", "mg": "ignored",
    "p": "warned", "l": "warned", "usemap": "warned", "maplib": "warned",
    "vp": "refused", "cstype": "refused", "deg": "refused", "bmat": "refused", "step": "refused", "curv": "refused",
    "curv2": "refused", "surf": "refused", "parm": "refused", "trim": "refused", "hole": "refused", "scrv": "refused",
    "sp": "refused", "end": "refused", "con": "refused", "ctech": "refused", "stech": "refused", "bzp": "refused",
    "bsp": "refused", "cdc": "refused", "cdp": "refused", "res": "refused", "call": "refused", "csh": "refused",
}  # fmt: skip
MTL: Mapping[str, Support] = {  # statements, in lower case
    "newmtl": "read", "kd": "read", "d": "read", "tr": "read", "map_kd": "read", "map_d": "read",
    "ka": "ignored", "ks": "ignored", "ns": "ignored", "ni": "ignored", "illum": "ignored", "tf": "ignored",
    "sharpness": "ignored", "pr": "ignored", "pm": "ignored", "ps": "ignored", "pc": "ignored", "pcr": "ignored",
    "aniso": "ignored", "anisor": "ignored", "map_ka": "ignored", "map_ks": "ignored", "map_ns": "ignored",
    "map_bump": "ignored", "bump": "ignored", "map_tr": "warned", "map_pr": "ignored", "map_pm": "ignored",
    "map_ps": "ignored", "norm": "ignored", "map_kn": "ignored", "map_refl": "ignored", "refl": "ignored",
    "map_ao": "ignored", "map_aat": "ignored", "map_ke": "warned", "ke": "warned", "disp": "warned",
    "map_disp": "warned", "decal": "warned", "map_opacity": "warned",
}  # fmt: skip
MTL_OPTIONS: Mapping[str, tuple[Support, int]] = {  # of a texture: (support, most arguments)
    "-s": ("read", 3), "-o": ("read", 3), "-clamp": ("read", 1),
    "-blendu": ("ignored", 1), "-blendv": ("ignored", 1), "-texres": ("ignored", 1), "-boost": ("ignored", 1),
    "-bm": ("ignored", 1), "-cc": ("ignored", 1), "-type": ("warned", 1),
    "-mm": ("warned", 2), "-t": ("warned", 3), "-imfchan": ("warned", 1),
}  # fmt: skip
GLTF_EXTENSIONS: Mapping[str, Support] = {  # any other: warned, and refused where the file requires it
    "KHR_mesh_quantization": "read", "KHR_texture_transform": "read", "EXT_mesh_gpu_instancing": "read",
    "KHR_draco_mesh_compression": "read", "KHR_materials_pbrSpecularGlossiness": "read",
    "KHR_materials_unlit": "read", "KHR_node_visibility": "read", "EXT_texture_webp": "read",
    "MSFT_texture_dds": "read",
    "KHR_materials_variants": "ignored", "KHR_materials_ior": "ignored", "KHR_materials_specular": "ignored",
    "KHR_materials_clearcoat": "ignored", "KHR_materials_sheen": "ignored", "KHR_materials_iridescence": "ignored",
    "KHR_materials_anisotropy": "ignored", "KHR_materials_dispersion": "ignored", "KHR_materials_volume": "ignored",
    "KHR_materials_emissive_strength": "ignored", "KHR_lights_punctual": "ignored", "EXT_lights_image_based": "ignored",
    "KHR_animation_pointer": "ignored", "KHR_xmp": "ignored", "KHR_xmp_json_ld": "ignored", "MSFT_lod": "ignored",
    "KHR_node_selectability": "ignored", "KHR_node_hoverability": "ignored", "KHR_interactivity": "ignored",
    "KHR_audio_emitter": "ignored", "EXT_lights_ies": "ignored", "EXT_structural_metadata": "ignored",
    "KHR_accessor_float64": "refused",
    "KHR_materials_transmission": "warned", "KHR_materials_diffuse_transmission": "warned",
    "KHR_texture_basisu": "warned",
    "EXT_meshopt_compression": "refused", "KHR_meshopt_compression": "refused",
}  # fmt: skip
GLTF_CORE: Mapping[str, Support] = {
    "triangles, triangle strips, triangle fans": "read",
    "accessors: all component types, normalized, sparse, interleaved, without a buffer view": "read",
    "buffers: embedded (data:), beside the file, in the GLB": "read",
    "node hierarchies: matrix, translation, rotation, scale": "read",
    "the default scene (the first one where none is marked)": "read",
    "skins and morph targets, at rest": "read",
    "TEXCOORD_n, COLOR_0 of every type": "read",
    "base color: factor, texture, sampler wrapping, alpha modes and cutoff": "read",
    "metalness, roughness, normal and occlusion textures, double sides, animations, cameras": "ignored",
    "emission": "warned",
    "points and lines": "warned",
    "glTF 1.0; buffers on the network": "refused",
}
PLY: Mapping[str, Support] = {
    "vertex: x, y, z; nx, ny, nz; red, green, blue, alpha (also r, g, b, a and diffuse_*; integer or float)": "read",
    "vertex: s, t; u, v; texture_u, texture_v; texcoord_*": "read",
    "face: vertex_index(es), polygons of any size; texcoord; red, green, blue, alpha": "read",
    "comment TextureFile, one": "read",
    "tristrips": "read",
    "comment TextureFile, several; edges; texnumber": "warned",
    "other properties and elements": "ignored",
    "no face (a point cloud, Gaussian splats)": "refused",
}
STL: Mapping[str, Support] = {
    "binary; ASCII, several solids": "read",
    "colors in the attribute bytes": "warned",
}
OFF: Mapping[str, Support] = {
    "OFF, COFF, NOFF, STOFF and their combinations; polygons of any size; colors of faces": "read",
    "binary; 4OFF, nOFF": "refused",
}


def rows() -> Iterator[tuple[str, str, Support]]:
    """(format, feature, support) of all tables."""
    tables: dict[str, Mapping[str, Support]] = {
        "OBJ statement": OBJ, "MTL statement": MTL,
        "MTL texture option": {name: support for name, (support, _) in MTL_OPTIONS.items()},
        "glTF": GLTF_CORE, "glTF extension": GLTF_EXTENSIONS, "PLY": PLY, "STL": STL, "OFF": OFF,
    }  # fmt: skip
    for name, table in tables.items():
        yield from ((name, feature, support) for feature, support in table.items())


def markdown() -> str:
    """The table of docs/meshes.md: a row for each format and support."""
    grouped: dict[tuple[str, Support], list[str]] = {}
    for name, feature, support in rows():
        grouped.setdefault((name, support), []).append(feature)
    lines = ["| format | support | what |", "|---|---|---|"]
    for (name, support), features in grouped.items():
        code = name not in ("glTF", "PLY", "STL", "OFF")
        lines.append(
            f"| {name} | {support} | {', '.join(f'`{f}`' for f in features) if code else '; '.join(features)} |"
        )
    return "\n".join(lines) + "\n"
