"""What DINOv2 and DINOv3 share: images to patch features by one of timm's vision transformers.

Knows what is done to an image before the network, and how timm is asked to map the keys of a
checkpoint. It does not know the names of models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.config import Architecture
from ntt_ray.errors import ConfigError, WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.inputs import normalize_imagenet
from ntt_ray.models.positions import positional_basis, without_positions


class VitEncoder:
    """A loaded network in evaluation mode.

    Attributes:
        name: model name, written into the memory bank.
        image_size: side of the square input in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        feature_dim: channels of a patch feature.
        basis: ``(feature_dim, k)`` float32 on the device, the directions of places that are taken
            out of features, see `positions`; None where they stay.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        image_size: int,
        device: torch.device,
        dtype: torch.dtype,
        positional_debias: int | None = None,
    ) -> None:
        self.name = name
        self.image_size = image_size
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.feature_dim = int(model.embed_dim)
        self.basis: Tensor | None = None
        self._device, self._dtype = device, dtype
        if positional_debias is not None:
            self.basis = self._basis_of(model, positional_debias)
        self._model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._forward = self._model.forward_features

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        name: str,
        image_size: int,
        architecture: Architecture | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        positional_debias: int | None = None,
    ) -> Self:
        """Build the network and load the authors' file, or a safetensors file of the same keys.

        Args:
            checkpoint: path of the local file.
            name: a published name; with `architecture` any name.
            image_size: side of the square input in pixels.
            architecture: the size of the network, when it is not that of a published name.
            device: device that the network runs on.
            dtype: precision of weights and activations.
            positional_debias: how many directions that say where a patch lies are taken out of
                features; None takes none.

        Raises:
            WeightsError: keys or shapes do not fit, or this timm does not know the network.
            ConfigError: features differ by place in fewer directions than are to be taken out.
        """
        model = cls._loaded(checkpoint, name, image_size, architecture)
        return cls(model, name, image_size, torch.device(device), dtype, positional_debias)

    @classmethod
    def _loaded(
        cls, checkpoint: Path, name: str, image_size: int, architecture: Architecture | None
    ) -> Any:
        raise NotImplementedError

    def compile(self, options: CompileOptions) -> None:
        """Compile the network; the first images then take minutes."""
        self._forward = options.compile(self._model.forward_features)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize to the encoder's input and normalise (METHOD 9, 17).

        Bicubic without antialias, overshoot kept; then ImageNet mean and standard deviation.

        Args:
            images: ``(B, 3, H, W)`` float32 in about [0, 1].

        Returns:
            ``(B, 3, image_size, image_size)`` float32.
        """
        side = (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != side:
            images = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
        return normalize_imagenet(images)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Patch features after the final LayerNorm, without class and register tokens (METHOD 10).

        Args:
            images: ``(B, 3, H, W)`` float32 in about [0, 1], any size.

        Returns:
            ``(B, h, w, feature_dim)`` float32, rows top to bottom; not L2-normalised, but of length
            1 where the directions of places are taken out of them.
        """
        inputs = self.prepare(images.to(self._device)).to(self._dtype)
        tokens: Tensor = self._forward(inputs)[:, self._model.num_prefix_tokens :]
        features = self._at_places(tokens.float())
        return features if self.basis is None else without_positions(features, self.basis)

    def _at_places(self, tokens: Tensor) -> Tensor:
        grid = self.image_size // self.patch_size
        return tokens.reshape(len(tokens), grid, grid, self.feature_dim)

    @torch.no_grad()
    def _basis_of(self, model: Any, count: int) -> Tensor:
        """The directions of places; in float32, whatever the precision that images are seen in."""
        model = model.to(self._device).eval()
        empty = torch.zeros(1, 3, self.image_size, self.image_size).to(self._device)
        tokens: Tensor = model.forward_features(self.prepare(empty))[:, model.num_prefix_tokens :]
        try:
            return positional_basis(self._at_places(tokens)[0], count).to(self._device)
        except ValueError as error:
            raise ConfigError(
                "this encoder says less of places than is to be taken out of its features:",
                [f"models.encoder.positional_debias: {error}"],
            ) from None


def to_timm_keys(
    tensors: Mapping[str, Tensor], model: Any, path: Path, filter_fn: Callable[..., Any]
) -> dict[str, Tensor]:
    """The authors' keys to timm's, by timm's own `filter_fn`; timm's keys pass through unchanged.

    Raises:
        WeightsError: the checkpoint `path` has another patch size or is of another model.
    """
    patch_weight = tensors.get("patch_embed.proj.weight")
    wanted = tuple(model.patch_embed.proj.weight.shape)
    if patch_weight is not None and tuple(patch_weight.shape) != wanted:
        # timm would resample it to another patch size without a word
        raise WeightsError(
            f"{path} does not fit the model: patch_embed.proj.weight is "
            f"{list(patch_weight.shape)}, the model has {list(wanted)}"
        )
    timm_logger = logging.getLogger("timm")
    level = timm_logger.level
    timm_logger.setLevel(logging.WARNING)
    try:
        return dict(filter_fn(dict(tensors), model))
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise WeightsError(
            f"{path} does not look like a checkpoint of this model: {error}"
        ) from None
    finally:
        timm_logger.setLevel(level)
