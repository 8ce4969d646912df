"""SAM2: images to mask proposals from a grid of points. Meta's ``sam2`` module does the network.

Knows the published configurations, how a SAM2 YAML becomes a model, and which of SAM2's outputs
the method takes (METHOD 19 to 25). It does not know features, classes or scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from ntt_ray.errors import WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.inputs import normalize_imagenet
from ntt_ray.models.interfaces import BoxPrompt, Proposals
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.sam2.decoder.boxed import BoxDecoder
from ntt_ray.models.sam2.decoder.image import Sam2Features
from ntt_ray.models.sam2.decoder.refiner import Refiner
from ntt_ray.models.sam2.decoder.run import OUTPUTS, PointDecoder
from ntt_ray.models.weights import load_into, read_state_dict
from ntt_ray.settings import RefinementSettings

MIN_POINTS_PER_STEP = 32  # fewer save no memory that counts

# A YAML may build the classes of the published SAM2s and nothing else: building one calls it.
_TARGETS = frozenset(
    f"sam2.modeling.{name}"
    for name in (
        "sam2_base.SAM2Base",
        "backbones.image_encoder.ImageEncoder",
        "backbones.image_encoder.FpnNeck",
        "backbones.hieradet.Hiera",
        "position_encoding.PositionEmbeddingSine",
        "memory_attention.MemoryAttention",
        "memory_attention.MemoryAttentionLayer",
        "sam.transformer.RoPEAttention",
        "memory_encoder.MemoryEncoder",
        "memory_encoder.MaskDownSampler",
        "memory_encoder.Fuser",
        "memory_encoder.CXBlock",
    )
)


class Sam2Proposer:
    """A loaded SAM2 in evaluation mode with its grid of points.

    Attributes:
        image_size: side S of the square input in pixels; masks come at S/4.
        points: ``(P, 2)`` float32 (x, y) in pixels of the input, see `point_grid`.
        device: device that it runs on.
        refiner: asks about masks again at their centres; None where that is off.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        points_per_side: int,
        device: torch.device,
        dtype: torch.dtype,
        all_outputs: bool = False,
        refinement: RefinementSettings | None = None,
    ) -> None:
        self.image_size = int(model.image_size)  # type: ignore[arg-type]
        self.device, self._dtype = device, dtype
        model = model.to(device).eval().requires_grad_(False)
        self.points = point_grid(self.image_size, points_per_side).to(device)
        # fold the decoder's weights, in full precision: before the model is cast
        self._decoder = PointDecoder(model, self.points, dtype=dtype)
        self._decoder.all_outputs = all_outputs
        self._boxes = BoxDecoder(model, self._decoder, dtype)
        self.refiner: Refiner | None = None
        if refinement is not None:
            self.refiner = Refiner(model, self._decoder, dtype, refinement.min_iou)
        self._model: Any = model.to(dtype)

    def halve_step(self) -> bool:
        """Decode half as many points at once from now on; False where they are few already."""
        if self._decoder.points_per_step <= MIN_POINTS_PER_STEP:
            return False
        self._decoder.points_per_step //= 2
        return True

    def compile(self, options: CompileOptions) -> None:
        """Compile the image encoder and the point decoder; the first images then take minutes."""
        encoder = self._model.image_encoder
        encoder.forward = options.compile(encoder.forward)
        self._decoder.compile(options)

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        name: str,
        image_size: int,
        points_per_side: int,
        config: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        all_outputs: bool = False,
        refinement: RefinementSettings | None = None,
    ) -> Sam2Proposer:
        """Build the model and load an official ``.pt`` or a safetensors file of the same keys.

        Args:
            checkpoint: path of the local file.
            name: ``sam2_hiera_{t,s,b+,l}`` or ``sam2.1_hiera_...``; with `config` any name.
            image_size: side of the square input in pixels.
            points_per_side: the grid has ``points_per_side ** 2`` points.
            config: path of a SAM2 YAML, when it is not one of the published ones.
            device: device that the model runs on.
            dtype: precision of weights and activations.
            all_outputs: whether each output of a point is a proposal, see `PointDecoder`.
            refinement: how masks are asked about again at their centres; None: they are not.

        Raises:
            WeightsError: the YAML is not a SAM2's, or keys or shapes do not fit.
        """
        model = load_sam2(checkpoint, name, image_size, config)
        return cls(
            model,
            points_per_side=points_per_side,
            device=torch.device(device),
            dtype=dtype,
            all_outputs=all_outputs,
            refinement=refinement,
        )

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Sam2Features:
        """Run the image encoder (METHOD 19).

        Args:
            images: ``(B, 3, S, S)`` float32 in about [0, 1].
        """
        return image_features(self._model, images.to(self.device), self._dtype)

    def predict(
        self, features: Sam2Features, min_predicted_iou: float, points: Tensor | None = None
    ) -> tuple[Proposals, Tensor]:
        """Decode the points of the grid for one image (METHOD 20 to 25); see `PointDecoder.decode`.

        Of outputs 1 to 3 the one with the highest predicted IoU is taken, or with `all_outputs`
        each; output 0 never. Nothing is refined yet.
        """
        return self._decoder.decode(features, min_predicted_iou, points)

    def propose(
        self, images: Tensor, min_predicted_iou: float, wanted: Sequence[int] | None = None
    ) -> list[Proposals]:
        """Proposals of each wanted image at every point; see `encode_images` and `predict`."""
        positions = range(len(images)) if wanted is None else wanted
        features = self.encode_images(images)
        return [self._found(features.image(i), min_predicted_iou) for i in positions]

    def propose_at(self, image: Tensor, min_predicted_iou: float, points: Tensor) -> Proposals:
        """Proposals of one image ``(3, S, S)`` at some points; without any it is not looked at."""
        if len(points) == 0:
            return Proposals.none(self.image_size // 4, self.device)
        return self._found(self.encode_images(image[None]), min_predicted_iou, points)

    def propose_in_boxes(
        self,
        images: Tensor,
        min_predicted_iou: float,
        wanted: Sequence[int],
        boxes_xyxy: Sequence[Tensor],
        *,
        prompt: BoxPrompt,
        everywhere: bool,
    ) -> list[Proposals]:
        """Proposals of each wanted image in its boxes, behind those of the grid with `everywhere`.

        Which of SAM2's outputs is the mask of a box, `decoder.boxed` says. Without the grid, images
        are not looked at where none has a box. Where masks are refined, those of boxes are too.
        """
        none = Proposals.none(self.image_size // 4, self.device)
        if not everywhere and not any(len(boxes) for boxes in boxes_xyxy):
            return [none for _ in wanted]
        features, found = self.encode_images(images), []
        for position, boxes in zip(wanted, boxes_xyxy, strict=True):
            own, proposed = features.image(position), none
            if len(boxes):
                proposed = self._boxes.decode(own, min_predicted_iou, boxes.to(self.device), prompt)
            if everywhere:
                grid, _ = self.predict(own, min_predicted_iou)
                places = len(self.points) * (OUTPUTS if self._decoder.all_outputs else 1)
                proposed = _behind(grid, proposed, places)
            found.append(self._refined(own, proposed))
        return found

    def _found(
        self, features: Sam2Features, min_predicted_iou: float, points: Tensor | None = None
    ) -> Proposals:
        return self._refined(features, self.predict(features, min_predicted_iou, points)[0])

    def _refined(self, features: Sam2Features, proposals: Proposals) -> Proposals:
        return proposals if self.refiner is None else self.refiner.refine(features, proposals)


def _behind(first: Proposals, second: Proposals, considered: int) -> Proposals:
    """Proposals, and others behind the `considered` places that the first were chosen from."""
    return Proposals(
        torch.cat((first.logits, second.logits)),
        torch.cat((first.predicted_iou, second.predicted_iou)),
        torch.cat((first.index, considered + second.index)),
    )


def image_features(model: Any, images: Tensor, dtype: torch.dtype) -> Sam2Features:
    """Run a model's image encoder.

    Args:
        model: a ``SAM2Base``.
        images: ``(B, 3, S, S)`` float32 in about [0, 1], on the model's device.
        dtype: type of the model's weights.

    Raises:
        ValueError: the images have another size than the model's input.
    """
    side = int(model.image_size)
    if tuple(images.shape[-2:]) != (side, side):
        raise ValueError(f"SAM2 takes {side} x {side} images, not {tuple(images.shape)}")
    levels = model.forward_image(normalize_imagenet(images).to(dtype))["backbone_fpn"]
    return Sam2Features(embedding=levels[2], high_res_0=levels[0], high_res_1=levels[1])


def point_grid(image_size: int, points_per_side: int) -> Tensor:
    """The grid of prompts (METHOD 20): x slow, y fast, 0.5 to image_size - 0.5.

    SAM2's prompt encoder adds another half pixel, so the last point lies on the image's edge.

    Returns:
        ``(points_per_side ** 2, 2)`` float32, (x, y) in pixels.
    """
    ticks = torch.linspace(0, image_size - 1, points_per_side)
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2) + 0.5


def load_sam2(
    checkpoint: Path, name: str, image_size: int, config: Path | None = None
) -> nn.Module:
    """The model of `build_sam2` with the weights of a checkpoint; see `Sam2Proposer.load`."""
    model = build_sam2(name, image_size, config)
    load_into(model, read_state_dict(checkpoint), checkpoint)
    return model


def build_sam2(name: str, image_size: int, config: Path | None = None) -> nn.Module:
    """The SAM2 of a published name or of a YAML; random weights.

    Raises:
        WeightsError: the YAML cannot be read, is not a SAM2's, or names a class outside SAM2.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    tree = _read_yaml(name, config)
    tree.model.image_size = image_size
    source = config or name
    _check_targets(OmegaConf.to_container(tree.model), source)
    try:
        model = instantiate(tree.model, _recursive_=True)
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: SAM2 cannot be built from it ({error})") from None
    if not isinstance(model, nn.Module):
        raise WeightsError(f"{source}: builds a {type(model).__name__}, not a SAM2")
    model.image_encoder.neck.position_encoding = _NoPositions()  # type: ignore[union-attr]
    return model


class _NoPositions(nn.Module):
    """In the place of the positions of image features: only SAM2's memory of videos asks for them.

    They have no weights; making them would copy as much as the features themselves. What is given
    has their shape, and one element.
    """

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(()).expand(features.shape)


def _read_yaml(name: str, config: Path | None) -> DictConfig:
    if config is None and name in BUNDLED:
        text = bundled_file(f"{name}.yaml").read_text(encoding="utf-8")
    elif config is None:
        family = name.split("_", 1)[0]
        published = resources.files("sam2").joinpath("configs", family, f"{name}.yaml")
        text = published.read_text(encoding="utf-8")
    else:
        try:
            text = config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{config}: cannot be read ({error})") from None
    try:
        tree = OmegaConf.create(text)
        OmegaConf.resolve(tree)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise WeightsError(f"{config or name}: not a SAM2 YAML ({error})") from None
    if not isinstance(tree, DictConfig) or not isinstance(tree.get("model"), DictConfig):
        raise WeightsError(f"{config or name}: not a SAM2 YAML, it has no 'model'")
    return tree


def _check_targets(node: Any, source: object) -> None:
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and target not in _TARGETS:
            raise WeightsError(f"{source}: _target_ {target!r} is not one of SAM2's classes")
        for value in node.values():
            _check_targets(value, source)
    elif isinstance(node, list):
        for value in node:
            _check_targets(value, source)
