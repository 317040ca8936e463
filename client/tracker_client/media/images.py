"""Converts a path, bytes, a PIL image, W&B's image, a figure or an array to the bytes of an image file.

An array has the shape (height, width), (height, width, channels) or (channels, height, width), with 1, 3 or 4
channels. A stack of images has one more axis before these. Values are uint8, or floats in [0, 1].

An array is copied at the call and encoded on the uploading thread. The copy of a tensor on a device is
enqueued behind the work that produces the tensor, and encoded once it has arrived. No array or image library
is imported: an object can be an array only if the script has imported the library.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_client.media.pictures import encode_picture
from tracker_client.media.png import SIGNATURE, encode_png
from tracker_client.staging.sources import Encoded, FileSource, HeldBytes, Source, SourceUnusable
from tracker_client.values.arguments import valid_text
from tracker_client.values.devices.copies import copy_tensors, has_streams
from tracker_client.values.refusals import UnusableValue
from tracker_client.values.wandb_objects import ImageValue, from_wandb, is_of_wandb
from tracker_protocol import limits

_FORMATS = (
    (SIGNATURE, "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)
_SUFFIXES = frozenset(("png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "svg"))
_CHANNELS = frozenset((1, 3, 4))
_ARRAY_ADVICE = "log height × width, with 1, 3 or 4 channels as the last or first axis if there are any"
_VALUES_ADVICE = "log uint8, or floats in [0, 1]"
_ARRAYS = (("torch", "Tensor"), ("numpy", "ndarray"), ("jax", "Array"))
_SLACK = 1e-4
"""The most that a float may exceed [0, 1] by, as after interpolation or in half precision."""


Note = Callable[[str], None]
"""Receives a sentence for the user."""


def _ignore(_: str) -> None:
    """Drop a sentence."""


@dataclass(frozen=True)
class ImageContent:
    """The source of an image, and the bytes that it holds in memory until its upload."""

    source: Source
    held_bytes: int


def image_contents(image: Any, caption: Any, note: Note) -> list[tuple[ImageContent, str | None]]:
    """Take the images of a list, of a stack, or the one ``image``, as they are now; each with its caption.

    ``caption`` may be a list of captions. At most IMAGES_PER_ITEM_MAX images are taken, and ``note`` receives
    a sentence about the others. Raises as :func:`image_content`.
    """
    images = _images_of(image)
    captions = list(caption) if isinstance(caption, (list, tuple)) else [caption] * len(images)
    if len(images) > limits.IMAGES_PER_ITEM_MAX:
        most = limits.IMAGES_PER_ITEM_MAX
        note(f"of {len(images)} images in one call the first {most} are recorded")
    taken = []
    captions += [None] * len(images)
    for one, text in zip(images[: limits.IMAGES_PER_ITEM_MAX], captions, strict=False):
        own = from_wandb(one) if is_of_wandb(one) else None
        own_caption = own.caption if isinstance(own, ImageValue) else None
        shown = own_caption if text is None else text
        taken.append((image_content(one, note), None if shown is None else _caption(shown)))
    if len(taken) > 1:
        number_paths([content.source for content, _ in taken])
    return taken


def number_paths(sources: Sequence[Source]) -> None:
    """Give the sources of one item different paths, ``1.png`` and so on."""
    for number, source in enumerate(sources, 1):
        source.path = f"{number}{Path(source.path).suffix}"


def _caption(caption: Any) -> str:
    return valid_text(str(caption)[: limits.TEXT_VALUE_MAX_CHARACTERS])


def _images_of(image: Any) -> list[Any]:
    """Return the images of a list or of a stack; a list with any other image alone."""
    if isinstance(image, (list, tuple)):
        if not image:
            raise SourceUnusable("an empty list holds no image; it is not recorded")
        return list(image)
    if not any(_is_a(image, *kind) for kind in _ARRAYS):
        return [image]
    shape = tuple(image.shape)
    is_stack = len(shape) == 4 or (len(shape) == 3 and _CHANNELS.isdisjoint((shape[0], shape[2])))
    return list(image) if is_stack and 0 not in shape else [image]


def is_image_object(value: Any) -> bool:
    """Return True for an image of W&B or PIL, or a figure."""
    if is_of_wandb(value):
        return type(value).__name__ == "Image"
    return _is_picture(value) or callable(getattr(value, "savefig", None))


def _is_picture(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def image_content(image: Any, note: Note = _ignore) -> ImageContent:
    """Take ``image`` as it is now; ``note`` receives a sentence about what is changed later.

    Raises:
        SourceUnusable: ``image`` is no image, or one that cannot be recorded. The values of an array are
            checked later, when its source is opened.
    """
    if is_of_wandb(image):
        own = from_wandb(image)
        if not isinstance(own, ImageValue):
            raise SourceUnusable(f"W&B's {type(image).__name__} is no image with a file; it is not recorded")
        image = own.path
    if isinstance(image, (str, os.PathLike)):
        return _from_path(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
        return ImageContent(HeldBytes(f"image.{_format_of(data)}", data), len(data))
    if callable(getattr(image, "savefig", None)):
        return _from_figure(image)
    if _is_picture(image):
        picture = image.copy()
        size = picture.size[0] * picture.size[1] * 4
        return ImageContent(Encoded("image.png", lambda: encode_picture(picture, note)), size)
    return _from_array(image)


def _from_path(path: str | os.PathLike[str]) -> ImageContent:
    location = os.fspath(path)
    suffix = Path(location).suffix[1:].lower()
    source = FileSource("", location, keep_open=True)
    head = next(source.chunks(0), b"")
    source.path = f"image.{suffix if suffix in _SUFFIXES else _format_of(head)}"
    if source.size_bytes > limits.FILE_SNAPSHOT_BYTES:
        return ImageContent(source, 0)
    try:
        data = source.read()
    finally:
        source.close()
    return ImageContent(HeldBytes(source.path, data), len(data))


def _format_of(data: bytes) -> str:
    for signature, suffix in _FORMATS:
        if data.startswith(signature):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if b"<svg" in data[:1024]:
        return "svg"
    raise SourceUnusable("its bytes are no PNG, JPEG, GIF, BMP, TIFF, WebP or SVG; it is not recorded")


def _from_figure(figure: Any) -> ImageContent:
    # Drawn now and on this thread: the script may change or close the figure next, and no drawing library may
    # be used by several threads.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = buffer.getvalue()
    return ImageContent(HeldBytes("image.png", data), len(data))


# ---- arrays --------------------------------------------------------------------------------------


def _from_array(array: Any) -> ImageContent:
    torch = sys.modules.get("torch")
    if _is_a(array, "torch", "Tensor"):
        shape = _checked_shape(tuple(array.shape))
        if has_streams(array.device.type, torch):
            return _from_device(array, shape, torch)
        encode = _encoder(_copied_tensor(array), shape, prefers_channels_first=True)
    elif _is_a(array, "numpy", "ndarray"):
        shape = _checked_shape(array.shape)
        copy = array.copy()
        encode = _encoder(lambda: copy, shape, prefers_channels_first=False)
    elif _is_a(array, "jax", "Array"):
        shape = _checked_shape(tuple(array.shape))  # immutable: no copy is needed
        encode = _encoder(lambda: _numpy_of(array), shape, prefers_channels_first=False)
    else:
        kind = type(array)
        raise SourceUnusable(
            f"a {kind.__module__}.{kind.__name__} is no image; log a path, bytes, a PIL image, a figure or "
            "an array"
        )
    return ImageContent(Encoded("image.png", encode), int(getattr(array, "nbytes", 0)))


def _from_device(tensor: Any, shape: tuple[int, ...], torch: Any) -> ImageContent:
    """Enqueue the copy of a tensor on a device; the uploading thread reads it once it has arrived."""
    try:
        copy = copy_tensors([tensor], torch)
    except UnusableValue as unusable:
        raise SourceUnusable(str(unusable)) from None
    encode = _encoder(lambda: _numpy_of(copy.tensors[0]), shape, prefers_channels_first=True)
    size_bytes = int(tensor.numel() * tensor.element_size())
    return ImageContent(Encoded("image.png", encode, copy.ready), size_bytes)


def _is_a(array: Any, module: str, name: str) -> bool:
    """Return True if ``array`` is an instance of ``module.name``; the module is not imported for that."""
    return isinstance(array, getattr(sys.modules.get(module), name, ()))


def _copied_tensor(tensor: Any) -> Callable[[], Any]:
    """Copy ``tensor`` as it is at the call; return a function that returns the copy's values."""
    copy = tensor.detach().clone()
    return lambda: _numpy_of(copy.cpu())


def _numpy_of(array: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise SourceUnusable("an image of this array needs numpy; import numpy, or log a path or bytes")
    if str(getattr(array, "dtype", "")) == "torch.bfloat16":
        array = array.float()  # numpy has no such type
    return numpy.asarray(array)


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in {2, 3} or 0 in shape:
        raise SourceUnusable(f"an array of shape {shape} is no image; {_ARRAY_ADVICE}")
    if len(shape) == 3 and _CHANNELS.isdisjoint((shape[0], shape[2])):
        raise SourceUnusable(f"an array of shape {shape} has no channels of an image; {_ARRAY_ADVICE}")
    pixels = shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1)
    if pixels > limits.IMAGE_PIXELS_MAX * 4:
        raise SourceUnusable(f"an image of shape {shape} has more than {limits.IMAGE_PIXELS_MAX} pixels")
    return shape


def _encoder(
    array: Callable[[], Any], shape: tuple[int, ...], *, prefers_channels_first: bool
) -> Callable[[], bytes]:
    def encode() -> bytes:
        return _encoded(array(), _is_channels_first(shape, prefers=prefers_channels_first))

    return encode


def _is_channels_first(shape: tuple[int, ...], *, prefers: bool) -> bool:
    """Return True if the first axis holds the channels; ``prefers`` decides if the last axis could too."""
    if len(shape) == 2 or shape[0] not in _CHANNELS:
        return False
    return prefers or shape[2] not in _CHANNELS


def _encoded(array: Any, channels_first: bool) -> bytes:  # noqa: FBT001 - private, and named where it is made
    pixels = _as_bytes(array)
    if channels_first:
        pixels = pixels.transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return encode_png(width, height, channels, pixels.tobytes())


def _as_bytes(array: Any) -> Any:
    """Convert the array to uint8; a float in [0, 1] becomes the nearest of 0 to 255."""
    kind = array.dtype.kind
    if array.dtype == "uint8":
        return array
    if kind == "b":
        return array.astype("uint8") * 255
    if kind != "f":
        raise SourceUnusable(f"an image of {array.dtype} has no known range of values; {_VALUES_ADVICE}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # true also if there is a NaN
        raise SourceUnusable(
            f"an image of floats from {low:g} to {high:g} is not in [0, 1]; {_VALUES_ADVICE}"
        )
    return (array.astype("float32").clip(0, 1) * 255 + 0.5).astype("uint8")
