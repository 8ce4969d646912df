"""Images in their own proportions, against timm's network built for just their size."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import checkpoint_filter_fn

from ntt_ray.bank.build import Background, background_means, crop_features, masked_mean
from ntt_ray.config import Architecture
from ntt_ray.errors import WeightsError
from ntt_ray.images import resize_square
from ntt_ray.masks import encode_mask
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.prompting import promising_points
from ntt_ray.method.pooling import pooled_features
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.aspect import AspectEncoder, aspect_size
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.inputs import normalize_imagenet
from ntt_ray.models.interfaces import SizedEncoder, encoded
from ntt_ray.models.sam2.proposer import point_grid
from ntt_ray.proposals.keeping import Keeper
from ntt_ray.records import ImageEntry, Reference
from ntt_ray.references.crops import ReferenceCrop
from ntt_ray.settings import MethodSettings, PromptSettings, TileSettings
from tests import reference
from tests.support.colours import ColourProposer
from tests.support.fakes import BANK, FakeEncoder
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights" / "dino_nano.pth"

# at a long side of 630 with patches of 14, unless another one is said
SIZES = {
    "wide": ((480, 640), 630, (476, 630)),  # 472.5 pixels are 33.75 patches: 34
    "high": ((640, 480), 630, (630, 476)),
    "square": ((7, 7), 630, (630, 630)),
    "16 to 9": ((1080, 1920), 630, (350, 630)),  # 354.4 pixels are 25.3 patches
    "half a patch": ((1, 2), 14 * 5, (42, 70)),  # 2.5 patches
    "nearly square": ((99, 100), 630, (630, 630)),  # 44.55 patches
    "thin": ((10, 10_000), 630, (14, 630)),  # 0.045 patches
    "of one pixel": ((1, 1), 14, (14, 14)),
}


@pytest.mark.parametrize(("size", "long_side", "expected"), SIZES.values(), ids=SIZES.keys())
def test_worked_sizes(size, long_side, expected):
    assert aspect_size(size, long_side, 14) == expected


@pytest.mark.parametrize("patch_size", [8, 14])
def test_sizes_are_the_nearest_there_are(patch_size):
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 5000, (200, 2)).tolist():
        found = aspect_size((height, width), 45 * patch_size, patch_size)
        assert max(found) == 45 * patch_size
        assert (height <= width) == (found[0] <= found[1]) or min(found) == max(found)
        wanted = min(height, width) / max(height, width) * 45
        assert abs(min(found) / patch_size - max(1, wanted)) <= 0.5 + 1e-9


def _load(**options) -> AspectEncoder:
    architecture = Architecture(embed_dim=64, depth=2, num_heads=4)
    return AspectEncoder.load(
        WEIGHTS, name="nano", architecture=architecture, **{"image_size": 112, **options}
    )


def _plain(images: torch.Tensor) -> torch.Tensor:
    """Features by a network built for inputs of this size, its positions resampled as it loads."""
    height, width = images.shape[-2:]
    model = timm.create_model(
        "vit_small_patch14_dinov2",
        num_classes=0,
        img_size=(height, width),
        embed_dim=64,
        depth=2,
        num_heads=4,
        init_values=1e-5,
    ).eval()
    tensors = torch.load(WEIGHTS, weights_only=True)
    model.load_state_dict(checkpoint_filter_fn(dict(tensors), model))
    with torch.inference_mode():
        tokens = model.forward_features(normalize_imagenet(images))[:, 1:]
    return tokens.view(len(images), height // 14, width // 14, 64)


@pytest.mark.parametrize("size", [(56, 112), (112, 70), (112, 112), (14, 112)], ids=str)
def test_features_are_those_of_a_network_of_that_size(size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = _load().encode(images)
    assert found.shape == (2, size[0] // 14, size[1] // 14, 64)
    torch.testing.assert_close(found, _plain(images), atol=1e-5, rtol=0)


def test_positions_are_those_of_the_checkpoint_however_long_the_side_is():
    """They are not resampled to a square first, and then to the image's grid."""
    images = torch.rand(1, 3, 126, 210)
    found = _load(image_size=210).encode(images)
    torch.testing.assert_close(found, _plain(images), atol=1e-5, rtol=0)


def test_a_square_image_has_the_features_of_the_square_encoder():
    images = torch.rand(1, 3, 112, 112)
    square = Dinov2Encoder.load(
        WEIGHTS,
        name="nano",
        image_size=112,
        architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
    )
    assert not isinstance(square, SizedEncoder)
    assert encoded(square, images, [(1, 7)]).shape == (1, 8, 8, 64)
    torch.testing.assert_close(_load().encode(images), square.encode(images), atol=1e-5, rtol=0)


def test_stretched_images_are_resized_straight_to_their_input():
    stretched = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    encoder = _load()
    assert isinstance(encoder, SizedEncoder)
    sizes = [(30, 60), None, (60, 30)]  # and one more only keeps the batch full
    found = encoded(encoder, stretched, sizes)
    assert [own.shape for own in found] == [(4, 8, 64), (0, 0, 64), (8, 4, 64)]
    for n, size in ((0, (56, 112)), (2, (112, 56))):
        own = F.interpolate(stretched[n : n + 1], size=size, mode="bicubic", antialias=True)
        torch.testing.assert_close(found[n], _plain(own)[0], atol=1e-5, rtol=0)


def test_what_an_image_gets_does_not_depend_on_the_others():
    images, sizes = torch.rand(3, 3, 64, 64), [(30, 60), (60, 31), (60, 60)]
    encoder = _load()
    together = encoder.encode_sized(images, sizes)
    for n, size in enumerate(sizes):
        (alone,) = encoder.encode_sized(images[n : n + 1], [size])
        assert torch.equal(together[n], alone)


@pytest.mark.parametrize("grid", [(4, 8), (8, 3), (1, 9), (45, 34)], ids=str)
def test_masks_are_pooled_on_any_grid(grid):
    random = torch.Generator().manual_seed(0)
    features = torch.randn(*grid, 16, generator=random)
    masks = torch.rand(6, 64, 64, generator=random) > 0.6
    masks[0] = False
    masks[0, 50:, :9] = True
    expected = torch.stack([reference.pooled_feature(features, mask) for mask in masks])
    torch.testing.assert_close(pooled_features(features, masks), expected, atol=1e-6, rtol=0)


def _crop(mask: np.ndarray, image_rgb: np.ndarray) -> ReferenceCrop:
    height, width = mask.shape
    entry = ImageEntry(1, "drawn", "drawn")
    rle = encode_mask(mask)
    bbox = (0.0, 0.0, float(width), float(height))
    return ReferenceCrop(Reference(1, 3, entry, (height, width), bbox, rle), image_rgb, mask)


def test_references_keep_their_proportions():
    """The features and the soft mask of a crop that the image's border cuts are on one grid."""
    random = np.random.default_rng(0)
    image_rgb = random.integers(0, 256, (56, 112, 3), dtype=np.uint8)
    mask = np.zeros((56, 112), dtype=bool)
    mask[:28, 56:] = True
    crop = _crop(mask, image_rgb)
    features, soft = crop_features(crop, _load())
    assert (features.shape, soft.shape) == ((4, 8, 64), (56, 112))
    plain = _plain(torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 255)[0]
    torch.testing.assert_close(features, plain, atol=1e-5, rtol=0)
    mean, weight = masked_mean(crop, features, soft)
    assert weight == 8
    torch.testing.assert_close(mean, plain[:2, 4:].mean(dim=(0, 1)), atol=1e-5, rtol=0)


class ColoursInProportion(FakeEncoder):
    """Mean colours on a grid whose long side has 8 patches; notes the sizes that it is told."""

    def __init__(self) -> None:
        self.sizes: list[list[tuple[int, int] | None]] = []

    def input_size(self, size_hw):
        return aspect_size(size_hw, 64, 8)

    def encode_sized(self, images, sizes_hw):
        self.sizes.append(list(sizes_hw))
        found = []
        for image, size in zip(images, sizes_hw):
            height, width = self.input_size(size or (1, 1))
            own = F.adaptive_avg_pool2d(image, (height // 8, width // 8))
            own = torch.cat((own, torch.full_like(own[:1], 0.1)))
            found.append(own.permute(1, 2, 0).contiguous())
        return found

    def encode(self, images):
        raise AssertionError("asked without sizes")


def _picture(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[height // 4 : height // 2, : width // 2, 0] = 255
    image[height // 2 :, width // 2 :, 1] = 255
    return image


def test_a_labeller_tells_the_sizes_of_images():
    encoder, proposer = ColoursInProportion(), ColourProposer()
    assert isinstance(encoder, SizedEncoder)
    pictures = [_picture(48, 96), _picture(96, 32)]
    labeler = Labeler(encoder, proposer, BANK, MethodSettings())
    found = labeler.label(pictures)
    assert encoder.sizes == [[(48, 96), (96, 32)]]
    for own in found:
        assert {d.category_id for d in own if d.score > 0.5} == {3, 8}
    encoder.sizes.clear()
    inputs = [resize_square(pictures[0], proposer.image_size)] * 3
    assert [len(f.result()) for f in labeler.begin(inputs, [(48, 96), None])] == [len(found[0]), 0]
    assert encoder.sizes == [[(48, 96), None]]


class Asked(ColourProposer):
    """Has a grid of points, and notes at which it is asked."""

    points = point_grid(32, 8)

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    def propose_at(self, image, min_predicted_iou, points):
        self.asked.append(points.tolist())
        return self._of(image, min_predicted_iou)


def test_points_are_chosen_on_the_grid_of_each_image():
    encoder, proposer = ColoursInProportion(), Asked()
    settings = MethodSettings(prompts=PromptSettings(min_similarity=0.9))
    labeler = Labeler(encoder, proposer, BANK, settings)
    pictures = [_picture(48, 96), _picture(96, 32)]
    labeler.label(pictures)
    for picture, asked in zip(pictures, proposer.asked, strict=True):
        stretched = (
            torch.from_numpy(resize_square(picture, 32).copy()).permute(2, 0, 1)[None].float() / 255
        )
        (features,) = encoder.encode_sized(stretched, [picture.shape[:2]])
        similarity = labeler.similarity(F.normalize(features.flatten(0, 1), dim=1))
        similarity = similarity.view(*features.shape[:2], -1)
        assert asked == promising_points(similarity, proposer.points, 32, 0.9).tolist()
        assert 0 < len(asked) < 64


def test_tiles_and_what_is_kept_tell_the_sizes_of_views():
    encoder, picture = ColoursInProportion(), _picture(64, 192)
    settings = MethodSettings(tiles=TileSettings(side=64, overlap=0.0))
    make_labeler(encoder, ColourProposer(), BANK, settings).label([picture])
    sizes = [size for batch in encoder.sizes for size in batch]
    assert (64, 192) in sizes  # all of it
    assert (64, 64) in sizes
    encoder.sizes.clear()
    keeper = Keeper(encoder, ColourProposer(), settings, None)
    (views,) = keeper.keep([picture])
    assert [size for batch in encoder.sizes for size in batch if size] == sizes
    assert sum(len(view.points) for view in views) > 1
    encoder.sizes.clear()
    whole = Keeper(encoder, ColourProposer(), MethodSettings(), None)
    squares = [resize_square(picture, 32)] * 3
    found = whole.begin(squares, [None, (64, 192)])
    assert [len(f.result()) for f in found] == [0, 1]
    assert encoder.sizes == [[None, (64, 192), None]]


def test_backgrounds_are_on_the_grid_of_their_image():
    taken = np.zeros((48, 96), dtype=bool)
    taken[:24] = True
    square = resize_square(_picture(48, 96), 64)
    encoder = ColoursInProportion()
    rows = background_means(Background(3, square, taken), encoder, 2)
    assert encoder.sizes == [[(48, 96)]]
    assert sum(weight for _, weight in rows) == 16  # the lower half of 4 x 8 patches


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(WeightsError, match="does not fit the model"):
        AspectEncoder.load(
            GOLDEN / "weights" / "sam2_nano.pt",
            name="nano",
            image_size=112,
            architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
        )
