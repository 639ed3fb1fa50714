# SPDX-License-Identifier: Apache-2.0
"""Data sets as integer pictures, and their patches in the order that the accelerator reads them."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sievit.quant.errors import SievitError


class DataError(SievitError):
    """Data that cannot be read: what is wrong and what to do about it, on one line."""


@dataclass(frozen=True)
class Dataset:
    """Pictures and labels of a training and a test part.

    Attributes:
        name: as it is shown in reports.
        train_images: uint8 ``[N, C, H, W]``, pixels ``0..levels``.
        train_labels: int64 ``[N]``, indices into ``classes``.
        test_images: like ``train_images``.
        test_labels: like ``train_labels``.
        levels: largest possible pixel value.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    levels: int = 255


def load(name: str, path: Path | None = None, image_size: int | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: one of ``loaders()``.
        path: file (``jpeg``) or folder (``cifar10``, ``cifar100``, ``folder``); not for ``digits``.
        image_size: height and width that the pictures must have; None accepts any.

    Raises:
        DataError: unknown name, missing or damaged file, pictures of the wrong size.
    """
    if name not in _LOADERS:
        raise DataError(f"no data set {name!r}; known: {', '.join(loaders())}")
    read, source = _LOADERS[name]
    if not source:
        if path is not None:
            raise DataError(f"{name} comes with scikit-learn; leave out the path {path}")
        data = read(Path())
    elif path is None:
        raise DataError(f"{name} needs a path; {source}")
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder; {source}")
    else:
        data = read(path)
    return _checked(data, path or Path(name), image_size)


def loaders() -> tuple[str, ...]:
    """Names that ``load`` knows."""
    return tuple(_LOADERS)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut pictures into patch tokens.

    Args:
        images: integers ``[N, C, H, W]``.
        patch: height and width of a patch; divides H and W.

    Returns:
        int64 ``[N, (H/patch)(W/patch), patch*patch*C]``: patches in raster order, the pixels
        of a patch row by row, the colours of a pixel next to each other.

    Raises:
        ValueError: the patch size does not divide the picture size.
    """
    n, c, h, w = images.shape
    if patch < 1 or h % patch or w % patch:
        raise ValueError(f"patches of {patch}x{patch} do not divide pictures of {h}x{w}")
    x = images.long().reshape(n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * c)


def pictures(paths: Sequence[Path], like: Dataset) -> Tensor:
    """uint8 ``[N, C, H, W]``: picture files in size, colours and levels of a data set.

    Raises:
        DataError: a file that is no picture.
    """
    channels, height, width = like.test_images.shape[1:]
    mode = "L" if channels == 1 else "RGB"
    out = []
    for path in paths:
        picture = _decode(path, str(path), mode).resize((width, height))
        pixels = np.asarray(picture, np.float64).reshape(height, width, channels)
        out.append(np.rint(pixels * like.levels / 255).astype(np.uint8))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()


# -- checks shared by all loaders ----------------------------------------------------------------
def _checked(data: Dataset, path: Path, image_size: int | None) -> Dataset:
    parts = {
        "train": (data.train_images, data.train_labels),
        "test": (data.test_images, data.test_labels),
    }
    for part, (images, labels) in parts.items():
        if len(images) == 0:
            raise DataError(f"{path}: no {part} pictures; check that the data set is complete")
        if len(images) != len(labels):
            raise DataError(
                f"{path}: {len(images)} {part} pictures but {len(labels)} labels; "
                "get the data again"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(data.classes):
            raise DataError(
                f"{path}: {part} labels {low}..{high} for {len(data.classes)} classes; "
                "get the data again"
            )
    train, test = tuple(data.train_images.shape[1:]), tuple(data.test_images.shape[1:])
    if train != test:
        raise DataError(
            f"{path}: train pictures are {_size(train)}, test pictures {_size(test)}; "
            "bring them to one format"
        )
    if image_size is not None and train[1:] != (image_size, image_size):
        raise DataError(
            f"{path}: pictures are {_size(train)}, the model takes {image_size}x{image_size}; "
            "resize the pictures or change image_size"
        )
    return data


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"


# -- scikit-learn digits -------------------------------------------------------------------------
def _digits(_: Path) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, random_state=0, stratify=labels
    )
    x = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels.astype(np.int64))
    classes = tuple(str(digit) for digit in range(10))
    return Dataset("digits", x[train], y[train], x[test], y[test], classes, levels=16)


# -- CIFAR in the official Python format ---------------------------------------------------------
_PICKLED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}
for _package in ("numpy.core", "numpy._core"):
    _PICKLED[_package + ".multiarray", "_reconstruct"] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    _PICKLED[_package + ".multiarray", "scalar"] = np._core.multiarray.scalar  # type: ignore[attr-defined]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers and numpy arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _PICKLED[module, name]


def _unpickle(path: Path, keys: Iterable[bytes]) -> list[Any]:
    """Values of ``keys`` in the pickled dict."""
    if not path.is_file():
        raise DataError(f"{path}: missing; unpack the whole archive again")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _ArrayUnpickler(file, encoding="bytes").load()
        return [content[key] for key in keys]
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not a complete CIFAR file ({reason}); unpack the archive again"
        ) from error


def _cifar_part(files: list[Path], label: bytes) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for path in files:
        pixels, values = _unpickle(path, (b"data", label))
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape[1:] != (3072,):
            raise DataError(f"{path}: not 32x32 RGB pictures; unpack the archive again")
        images.append(torch.from_numpy(np.array(pixels)).reshape(-1, 3, 32, 32))
        labels += [int(value) for value in values]
    return torch.cat(images), torch.tensor(labels)


def _cifar(
    path: Path, name: str, folder: str, train: list[str], test: str, meta: str, label: str
) -> Dataset:
    if (path / folder).is_dir():
        path = path / folder
    names_key = "label_names" if label == "labels" else label.replace("labels", "label_names")
    (names,) = _unpickle(path / meta, (names_key.encode(),))
    x, y = _cifar_part([path / part for part in train], label.encode())
    u, v = _cifar_part([path / test], label.encode())
    return Dataset(name, x, y, u, v, tuple(bytes(word).decode() for word in names))


def _cifar10(path: Path) -> Dataset:
    train = [f"data_batch_{i}" for i in range(1, 6)]
    return _cifar(
        path, "CIFAR-10", "cifar-10-batches-py", train, "test_batch", "batches.meta", "labels"
    )


def _cifar100(path: Path) -> Dataset:
    return _cifar(path, "CIFAR-100", "cifar-100-python", ["train"], "test", "meta", "fine_labels")


# -- folders of pictures -------------------------------------------------------------------------
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


def _decode(source: Path | io.BytesIO, what: str, mode: str | None = None) -> Image.Image:
    """A completely decoded picture; ``mode`` None keeps grey as L and makes the rest RGB."""
    try:
        with Image.open(source) as picture:
            picture.load()
            if picture.mode not in _MODES:
                raise DataError(
                    f"{what}: pixel format {picture.mode}; convert it to 8-bit grey or RGB"
                )
            grey = picture.mode in ("1", "L")
            return picture.convert(mode or ("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{what}: damaged picture ({reason}); get it again") from error


def _stack(pictures: list[Image.Image], names: Callable[[int], str]) -> Tensor:
    """uint8 ``[N, C, H, W]``: one channel if all pictures are grey, three otherwise."""
    for i, picture in enumerate(pictures):
        if picture.size != pictures[0].size:
            raise DataError(
                f"{names(i)}: {picture.height}x{picture.width}, but {names(0)} is "
                f"{pictures[0].height}x{pictures[0].width}; resize the pictures to one size"
            )
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    width, height = pictures[0].size
    out = np.empty((len(pictures), height, width, len(mode)), np.uint8)
    for i, picture in enumerate(pictures):
        out[i] = np.asarray(picture.convert(mode)).reshape(out.shape[1:])
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def _folder(path: Path) -> Dataset:
    test = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test is None:
        raise DataError(f"{path}: no train and test (or val) folder in it; {_LOADERS['folder'][1]}")
    classes = _subfolders(path / "train")
    if not classes:
        raise DataError(f"{path / 'train'}: no class folder in it; {_LOADERS['folder'][1]}")
    for extra in sorted(set(classes) ^ set(_subfolders(test))):
        here, there = ("train", test.name) if extra in classes else (test.name, "train")
        raise DataError(
            f"{path}: class {extra!r} is in {here} but not in {there}; add or remove it"
        )
    files: list[Path] = []
    labels: list[int] = []
    counts: list[int] = []
    for part in (path / "train", test):
        for label, name in enumerate(classes):
            found = [p for p in sorted((part / name).iterdir()) if p.suffix.lower() in _SUFFIXES]
            files += found
            labels += [label] * len(found)
        counts.append(len(files) - sum(counts))
        if not counts[-1]:
            raise DataError(f"{part}: no .png or .jpg pictures in its class folders; add some")
    images = _stack([_decode(file, str(file)) for file in files], lambda i: str(files[i]))
    x, u = images.split(counts)
    y, v = torch.tensor(labels).split(counts)
    return Dataset(path.resolve().name, x, y, u, v, tuple(classes))


def _subfolders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


# -- JPEG files packed into one .npz -------------------------------------------------------------
def _jpeg(path: Path) -> Dataset:
    keys = [
        f"{part}_{kind}" for part in ("train", "test") for kind in ("jpeg", "offsets", "labels")
    ]
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in [*keys, "classes"] if key not in archive.files]
            if missing:
                raise DataError(f"{path}: array {missing[0]!r} is missing; {_LOADERS['jpeg'][1]}")
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a complete .npz file ({reason}); get it again") from error
    parts: list[Tensor] = []
    for part in ("train", "test"):
        pixels = _jpeg_images(path, part, arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"])
        parts += [pixels, torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64))]
    base = path.stem.removesuffix("_jpeg")
    shown = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(base, base)
    name = str(arrays["name"]) if "name" in arrays else f"{shown} (JPEG)"
    x, y, u, v = parts
    return Dataset(name, x, y, u, v, tuple(str(word) for word in arrays["classes"]))


def _jpeg_images(path: Path, part: str, stored: np.ndarray, offsets: np.ndarray) -> Tensor:
    ends = offsets.astype(np.int64)
    if stored.dtype != np.uint8 or len(ends) < 2 or ends[0] or (np.diff(ends) <= 0).any():
        raise DataError(f"{path}: {part}_offsets do not cut {part}_jpeg into files; get it again")
    if ends[-1] != len(stored):
        raise DataError(
            f"{path}: {part}_jpeg has {len(stored)} bytes, its offsets end at {ends[-1]}; "
            "get the archive again"
        )

    def what(i: int) -> str:
        return f"{path}: {part} picture {i}"

    return _stack(
        [
            _decode(io.BytesIO(stored[ends[i] : ends[i + 1]].tobytes()), what(i))
            for i in range(len(ends) - 1)
        ],
        what,
    )


#: loader and what to give it
_LOADERS: dict[str, tuple[Callable[[Path], Dataset], str]] = {
    "digits": (_digits, ""),
    "cifar10": (
        _cifar10,
        "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and give that folder",
    ),
    "cifar100": (
        _cifar100,
        "unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz and give that folder",
    ),
    "folder": (_folder, "give a folder with train/<class>/*.png and test/<class>/*.png (or .jpg)"),
    "jpeg": (
        _jpeg,
        "give an .npz with train_jpeg, train_offsets, train_labels, the same for test, and classes",
    ),
}
