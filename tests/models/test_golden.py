"""Parity with the public classes on tiny random weights, in float32 within each case's tolerance.

Each case names its public class and its sizes; another case of the same class, put into tests/golden, runs by itself.
tests/golden/README.md names each class and commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from support.golden_cases import Case
from support.paths import GOLDEN, ROOT
from torch import Tensor, nn

from models import published
from models.aggregators import cross_attention, self_attention, triplane_tokens
from models.ead import EADSpec, Precision
from models.encoders import conv, croco, dino
from models.heads import deconvolution, dpt, linear
from models.layers import IMAGENET_MEAN, IMAGENET_STD, ReadingBlock, rope_angles, rotate
from models.outputs import gaussians, gslrm, noposplat, pointmap, splatt3r, triplane
from models.parts import OutputSpec
from models.tensors import Cameras, Dense, Gaussians, PointMap, Tokens, TokenSpec, Views

FULL = Precision(aggregator="fp32", head="fp32")
FOLDERS = (GOLDEN, ROOT.parent / "shared" / "golden")


def cases() -> Iterator[Any]:
    """All cases of public classes that belong to models/, each once."""
    files: dict[str, Path] = {}
    for folder in FOLDERS:
        files |= {path.stem: folder for path in sorted(folder.glob("*.npz")) if path.stem not in files}
    for name, folder in files.items():
        public = Case(name, folder).config["public_class"]
        if any(part in public for part in CHECKS):
            yield pytest.param(name, folder, id=name)


def check_rope(case: Case) -> None:
    x, where = case["in/x"], case["in/positions"]
    angles = [rope_angles(at, case.config["head_dim"], case.config["base"]) for at in where]
    case.check(torch.cat([rotate(x[i : i + 1], *rope) for i, rope in enumerate(angles)]), "rotated")


def check_croco_encoder(case: Case) -> None:
    c = case.config
    encoder = croco.Spec(patch=c["patch"], width=c["dim"], blocks=c["depth"], heads=c["heads"]).build()
    published.load_layout(encoder, case.state(), published.croco_encoder(), case.name)
    tokens = encoder(Views(((case["in/image"] + 1) / 2)[:, None])).grid
    case.check(tokens.flatten(1, 3), "tokens")


def check_dino(case: Case) -> None:
    c = case.config
    second = "dinov2" in c["public_class"]
    spec = dino.Spec(
        version="dinov2" if second else "dino",
        patch=c["patch"],
        width=c["dim"],
        blocks=c["depth"],
        heads=c["heads"],
        registers=c.get("registers", 0),
        table_size=c["table_image"],
    )
    encoder = spec.build()
    published.load_layout(encoder, case.state(), published.dino_encoder(), case.name)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    for size in c["images"]:
        tokens = encoder(Views((case[f"in/image_{size}"] * std + mean)[:, None]))
        patches, extra = tokens.grid.flatten(1, 3), tokens.extra.flatten(1, 2)
        if second:
            case.check(extra[:, 0], f"{size}_x_norm_clstoken")
            case.check(patches, f"{size}_x_norm_patchtokens")
            if c["registers"]:
                case.check(extra[:, 1:], f"{size}_x_norm_regtokens")
        else:
            case.check(torch.cat([extra, patches], dim=1), f"{size}_normed_after_block_{c['depth']}")


def check_decoder(case: Case) -> None:
    """Two views with grids of different shapes."""
    c = case.config
    spec = cross_attention.Spec(blocks=c["dec_depth"], width=c["dec_dim"], heads=c["dec_heads"])
    decoder = spec.build(TokenSpec(c["enc_dim"], 16))
    state = {"mask_token": torch.zeros(1, 1, c["dec_dim"])} | case.state()
    published.load_layout(decoder, state, published.croco_decoder(), case.name)
    embedded = [decoder.embed(case[f"in/tokens{view}"]) for view in (1, 2)]
    levels = decoder.decode(embedded, [case[f"in/positions{view}"][0] for view in (1, 2)])
    for level in range(1, c["dec_depth"] + 1):
        for view in (1, 2):
            case.check(levels[level][view - 1], f"view{view}_level{level:02d}")


def dpt_spec(config: dict[str, Any], **fields: Any) -> dpt.Spec:
    c, blocks = config["dpt"], config["dec_depth"]
    return dpt.Spec(
        taps=(0, blocks * 2 // 4, blocks * 3 // 4, blocks),
        layer_dims=tuple(c["layer_dims"]),
        features=c["feature_dim"],
        last_dim=c["last_dim"],
        **fields,
    )


def check_dpt_head(case: Case) -> None:
    c, (height, width) = case.config, case.config["image"]
    spec = dpt_spec(c)
    dims = [c["enc_dim"], c["dec_dim"], c["dec_dim"], c["dec_dim"]]
    output = pointmap.Spec()
    head = spec.build([TokenSpec(dim, 16) for dim in dims], output.channels())
    assert published.load_layout(head, case.state(), published.dpt_head("dpt."), case.name) == []
    rows, cols = height // 16, width // 16
    taps = [Tokens(case[f"in/level{tap:02d}"].unflatten(1, (1, rows, cols))) for tap in spec.taps]
    views = Views(torch.zeros(c["batch"], 1, 3, height, width))
    dense = head(taps, views)
    case.check(torch.cat(list(dense.channels.values()), -1)[:, 0].permute(0, 3, 1, 2), "raw")
    points = output.build()(dense, views)
    case.check(points.points[:, 0], "pts3d")
    case.check(points.confidence[:, 0], "conf")


def check_dust3r(case: Case) -> None:
    c = case.config
    is_dpt = "dpt" in c
    head = dpt_spec(c, view_weights="reference_source") if is_dpt else DUST3R_LINEAR
    spec = EADSpec(
        croco.Spec(width=c["enc_dim"], blocks=c["enc_depth"], heads=c["enc_heads"]),
        cross_attention.Spec(blocks=c["dec_depth"], width=c["dec_dim"], heads=c["dec_heads"]),
        head,
        pointmap.Spec(),
        precision=FULL,
        inputs=2,
    )
    model = spec.build(0)
    layout = published.whole_model(case.state())
    assert layout is not None
    published.load_layout(model, case.state(), layout, case.name)
    output: PointMap = model(Views((torch.stack([case["in/image1"], case["in/image2"]], dim=1) + 1) / 2))
    for view, points in enumerate(("pts3d1", "pts3d2_in_view1")):
        case.check(output.points[:, view], points)
        case.check(output.confidence[:, view], f"conf{view + 1}")


DUST3R_LINEAR = linear.Spec(order="channel_pixel", view_weights="reference_source")


def check_freesplatter(case: Case) -> None:
    c = case.config
    spec = EADSpec(
        conv.Spec(patch=c["patch"], width=c["dim"]),
        self_attention.Spec(blocks=c["depth"], heads=c["heads"], table_size=c["table_image"]),
        linear.Spec(),
        gaussians.Spec(),
        image_size=c["image"][0],
        precision=FULL,
    )
    model = spec.build(0)
    published.load_layout(model, case.state(), published.freesplatter(), case.name)
    views = Views(case["in/images"])
    if c["image"][0] != c["image"][1]:  # the public class exchanges the table's rows and columns there
        with pytest.raises(ValueError, match=r"serves square images.*crop or pad them to a square"):
            model(views)
        return
    dense = model.head(model.aggregator(model.encoder(views), None, model.levels), views)
    case.check(torch.cat(list(dense.channels.values()), dim=-1), "output")


def grouped(spec: OutputSpec, raw: Tensor, names: list[str] | None = None) -> Dense:
    """Channels (batch, view, height, width, k) in the groups of an output, or in the order of `names`."""
    channels = {name: spec.channels()[name] for name in names or spec.channels()}
    return Dense(dict(zip(channels, raw.split(list(channels.values()), dim=-1), strict=True)))


def covariances(output: Gaussians) -> Tensor:
    w, x, y, z = output.rotations.unbind(-1)
    rotation = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))
    scaled = rotation * output.scales[..., None, :]
    return scaled @ scaled.transpose(-1, -2)


def check_freesplatter_gaussians(case: Case) -> None:
    c = case.config
    spec = gaussians.Spec(sh_degree=c["sh_degree"], scale_min=c["scale_min"], scale_max=c["scale_max"])
    raw = case["in/raw"][None, None, None]
    output = spec.build()(grouped(spec, raw), Views(torch.zeros(1, 1, 3, 1, raw.shape[3])))
    case.check(output.means[0, 0, 0], "means")
    case.check(output.harmonics[0, 0, 0], "sh_or_colour")
    case.check(output.opacities[0, 0, 0, :, None], "opacities")
    case.check(output.scales[0, 0, 0], "scales")
    case.check(output.rotations[0, 0, 0], "quaternions_wxyz")


def check_noposplat_gaussians(case: Case) -> None:
    """The case gives activated points: their inverse is what our output reads."""
    spec = noposplat.Spec(sh_degree=case.config["sh_degree"])
    points = case["in/points"]
    distance = points.norm(dim=-1, keepdim=True)
    raw = torch.cat([points / distance * torch.log1p(distance), case["in/raw"]], dim=-1)[None, None, None]
    output = spec.build()(grouped(spec, raw), Views(torch.zeros(1, 1, 3, 1, raw.shape[3])))
    case.check(output.means[0, 0, 0], "means")
    case.check(output.scales[0, 0, 0], "scales")
    case.check(output.rotations[0, 0, 0].roll(-1, dims=-1), "quaternions_xyzw")
    case.check(output.harmonics[0, 0, 0].transpose(-1, -2), "sh_rgb_by_coefficient")
    case.check(output.opacities[0, 0, 0], "opacities")
    case.check(covariances(output)[0, 0, 0], "covariances")


def check_splatt3r_gaussians(case: Case) -> None:
    """MASt3R's points, confidence and descriptors from the same channels, too."""
    spec = splatt3r.Spec(descriptors=case.config["desc"], scale_bias=0, opacity_bias=0, color_residual=False)
    raw = rearrange(case["in/raw"], "b k h w -> b 1 h w k")
    views = Views(torch.zeros(len(raw), 1, 3, *raw.shape[2:4]))
    dense = grouped(spec, raw)
    output = spec.build()(dense, views)
    case.check(output.means[:, 0], "means")
    case.check(output.scales[:, 0], "scales")
    case.check(output.rotations[:, 0].roll(-1, dims=-1), "quaternions_xyzw")
    case.check(output.harmonics[:, 0].transpose(-1, -2), "sh")
    case.check(output.opacities[:, 0, ..., None], "opacities")
    case.check(covariances(output)[:, 0], "covariances")
    mast3r = {"points" if name == "means" else name: value for name, value in dense.channels.items()}
    points = pointmap.Spec(descriptors=case.config["desc"]).build()(Dense(mast3r), views)
    case.check(points.points[:, 0], "pts3d")
    case.check(points.confidence[:, 0], "conf")
    case.check(points.descriptors[:, 0], "desc")
    case.check(points.descriptor_confidence[:, 0], "desc_conf")


def check_gslrm(case: Case) -> None:
    c, (height, width) = case.config, case.config["image"]
    spec = EADSpec(
        conv.Spec(patch=c["patch"], width=c["dim"], rays=True),
        self_attention.Spec(
            blocks=c["depth"], heads=c["dim"] // c["head_dim"], view_embedding="none", positions="none"
        ),
        linear.Spec(bias=False),
        gslrm.Spec(sh_degree=c["sh_degree"], near=float(case["in/near"][0, 0]), far=float(case["in/far"][0, 0])),
        poses="known",
        precision=FULL,
    )
    model = spec.build(0)
    model.load_state_dict(dict(gslrm_state(case.state(), c["patch"])))
    scale = torch.tensor([width, height, 1.0])[:, None]
    world_to_camera = torch.linalg.inv(case["in/camera_to_world"])
    cameras = Cameras(world_to_camera, case["in/intrinsics_normalised"] * scale, height, width)
    output: Gaussians = model(Views(case["in/image"], cameras))
    case.check(output.means.flatten(1, 3), "means")
    case.check(covariances(output).flatten(1, 3), "covariances")
    case.check(output.harmonics.flatten(1, 3).transpose(-1, -2), "harmonics_rgb_by_coefficient")
    case.check(output.opacities.flatten(1, 3), "opacities")


def gslrm_state(public: dict[str, Tensor], patch: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in public.items():
        name = key.replace("attn_processor.", "aggregator.").replace("fc1", "0").replace("fc2", "2")
        if key == "tokenizer.0.weight":
            yield "encoder.patchify.weight", rearrange(value, "d (p q c) -> d c p q", p=patch, q=patch)
        elif key == "token_decoder.0.weight":
            yield "aggregator.norm.weight", value
        elif key == "token_decoder.1.weight":
            yield "head.linear.weight", value
        elif ".qkv." in key:
            yield from ((name.replace("qkv", x), part) for x, part in zip("qkv", value.chunk(3), strict=True))
        else:
            yield name, value


LRM_NAMES = (
    ("self_attn.in_proj_weight", "attn.qkv.weight"),
    ("self_attn.out_proj", "attn.proj"),
    ("cross_attn.out_proj", "cross.proj"),
    *((f"cross_attn.{x}_proj_weight", f"cross.{x}.weight") for x in "qkv"),
)


def lrm_state(public: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """OpenLRM's blocks: torch.nn.MultiheadAttention's projections, and norms in the order of their use."""
    cross = any("cross_attn" in key for key in public)
    norms = {"norm1": "norm_cross", "norm2": "norm1", "norm3": "norm2"} if cross else {}
    for key, value in public.items():
        name = key.removeprefix(prefix).replace("layers.", "blocks.", 1)
        for old, new in norms.items():
            if f".{old}." in name:
                name = name.replace(old, new)
                break
        name = name.replace(".mlp.1.", ".modulation.") if "norm" in name else name.replace(".mlp.3.", ".mlp.2.")
        for old, new in LRM_NAMES:
            name = name.replace(old, new)
        if ".norm" in name and "modulation" not in name and name.count("norm") == 1:
            name = name.rpartition(".")[0] + ".norm." + name.rpartition(".")[2]
        yield name, value


def check_lrm_transformer(case: Case) -> None:
    """Learned plane tokens, modulated by the camera, that read image tokens; then the planes."""
    c, state = case.config, case.state()
    spec = triplane_tokens.Spec(
        blocks=c["depth"], width=c["dim"], heads=c["heads"], side=c["low"], camera_dim=c["camera_dim"]
    )
    aggregator = spec.build(TokenSpec(c["cond_dim"], 16))
    ours = dict(lrm_state({k: v for k, v in state.items() if k.startswith("transformer.layers")}, "transformer."))
    ours |= {f"norm.{x}": state[f"transformer.norm.{x}"] for x in ("weight", "bias")}
    ours |= {k.replace("camera_embedder.mlp", "camera"): v for k, v in state.items() if k.startswith("camera_embedder")}
    aggregator.load_state_dict(ours | {"planes": state["pos_embed"].reshape(3, c["low"], c["low"], -1)})
    head = deconvolution.Spec().build([TokenSpec(c["dim"], 1, layout="planes")], {"planes": c["plane_dim"]})
    head.load_state_dict({k.replace("upsampler", "upsample"): v for k, v in state.items() if k.startswith("upsampler")})
    condition = aggregator.camera(case["in/camera"])
    case.check(condition, "camera_embedding")
    x = aggregator.planes.flatten(0, 2).expand(c["batch"], -1, -1)
    for level, block in enumerate(aggregator.blocks, start=1):
        x = block(x, case["in/image_tokens"], condition)
        case.check(x, f"layer_{level}")
    x = aggregator.norm(x)
    case.check(x, "tokens")
    grid = rearrange(x, "b (plane r c) d -> b plane r c d", plane=3, r=c["low"])
    dense = head([Tokens(grid, layout="planes")], Views(torch.zeros(c["batch"], 1, 3, 1, 1)))
    output = triplane.Spec(features=c["plane_dim"]).build()(dense, Views(torch.zeros(c["batch"], 1, 3, 1, 1)))
    case.check(output.planes, "planes")


def check_lrm_blocks(case: Case) -> None:
    c = case.config
    for kind, memory_dim in (("basic", 0), ("cond", c["cond_dim"])):
        state = {key: value for key, value in case.state().items() if key.startswith(kind)}
        blocks = nn.ModuleList(ReadingBlock(c["dim"], c["heads"], memory_dim) for _ in range(c["depth"]))
        layers = {key: value for key, value in state.items() if ".layers." in key}
        nn.ModuleDict({"blocks": blocks}).load_state_dict(dict(lrm_state(layers, f"{kind}.")))
        x = case["in/tokens"]
        for block in blocks:
            x = block(x, case["in/condition"] if memory_dim else None)
        norm = nn.LayerNorm(c["dim"], eps=1e-6)
        norm.load_state_dict({x: state[f"{kind}.norm.{x}"] for x in ("weight", "bias")})
        case.check(norm(x), kind)


CHECKS: dict[str, Callable[[Case], None]] = {  # a part of the public class's name
    "RoPE2D": check_rope,
    "CroCoNet._encode_image": check_croco_encoder,
    "vision_transformer.VisionTransformer": check_dino,
    "DinoVisionTransformer": check_dino,
    "AsymmetricCroCo3DStereo._decoder": check_decoder,
    "PixelwiseTaskWithDPT": check_dpt_head,
    "AsymmetricCroCo3DStereo head_type": check_dust3r,
    "freesplatter.models.transformer.Transformer": check_freesplatter,
    "GaussianModel": check_freesplatter_gaussians,
    "UnifiedGaussianAdapter": check_noposplat_gaussians,
    "gaussian_postprocess": check_splatt3r_gaussians,
    "EncoderLRM": check_gslrm,
    "modeling_lrm.ModelLRM": check_lrm_transformer,
    "transformer.TransformerDecoder block_type": check_lrm_blocks,
}


@pytest.mark.parametrize(("name", "folder"), list(cases()))
def test_parity(name: str, folder: Path) -> None:
    case = Case(name, folder)
    check = next(check for part, check in CHECKS.items() if part in case.config["public_class"])
    with torch.no_grad():
        check(case)


def test_the_papers_dpt_has_its_size() -> None:
    """20,548,183 parameters with four taps of width 1024 (Ours2), the unread unit of the coarsest fusion counted."""
    with torch.device("meta"):
        head = dpt.Spec().build([TokenSpec(1024, 16)] * 4, gaussians.Spec().channels())
    assert sum(p.numel() for p in head.parameters()) == 20_548_183
