# SPDX-License-Identifier: Apache-2.0
"""Every data format, pixel for pixel, and every way in which it can be broken."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sievit.models.data import DataError, load, loaders, patchify


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- digits --------------------------------------------------------------------------------------
def test_digits_split_is_fixed_and_stratified() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", None, 8)
    assert data.train_images.shape == (1437, 1, 8, 8) and data.test_images.shape == (360, 1, 8, 8)
    assert data.train_images.dtype == torch.uint8 and data.train_labels.dtype == torch.int64
    assert data.levels == 16 and int(data.train_images.max()) == 16
    assert data.test_labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert torch.equal(load("digits").test_images, data.test_images)
    images = torch.cat([data.train_images, data.test_images]).reshape(-1, 64)
    labels = torch.cat([data.train_labels, data.test_labels])
    pixels, digits = load_digits(return_X_y=True)
    ours = sorted([*x, y] for x, y in zip(images.tolist(), labels.tolist(), strict=True))
    theirs = sorted([*x, y] for x, y in zip(pixels.astype(int).tolist(), digits, strict=True))
    assert ours == theirs


def test_digits_refuses_a_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave out the path"):
        load("digits", tmp_path, None)


# -- CIFAR ---------------------------------------------------------------------------------------
def write_cifar(folder: Path, rng: np.random.Generator, many: bool) -> dict[str, np.ndarray]:
    """Files with the official names and keys; returns pixels by file name."""
    folder.mkdir(parents=True)
    train = ["train"] if many else [f"data_batch_{i}" for i in range(1, 6)]
    test, meta = ("test", "meta") if many else ("test_batch", "batches.meta")
    label, names = (b"fine_labels", b"fine_label_names") if many else (b"labels", b"label_names")
    pixels = {}
    for name in [*train, test]:
        pixels[name] = rng.integers(0, 256, (3, 3072)).astype(np.uint8)
        content = {b"data": pixels[name], label: [0, 2, 1], b"filenames": [b"a", b"b", b"c"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / meta).write_bytes(pickle.dumps({names: [b"cat", b"dog", b"ship"]}, protocol=2))
    return pixels


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path: Path, rng: np.random.Generator, name: str, nested: bool) -> None:
    many = name == "cifar100"
    folder = tmp_path / ("cifar-100-python" if many else "cifar-10-batches-py")
    pixels = write_cifar(folder, rng, many)
    data = load(name, tmp_path if nested else folder, 32)
    test = pixels.pop("test" if many else "test_batch")
    train = np.concatenate(list(pixels.values()))
    # red plane first, rows of 32
    assert data.train_images[1, 2, 5, 7] == train[1, 2 * 1024 + 5 * 32 + 7]
    assert np.array_equal(data.train_images.numpy().reshape(len(train), -1), train)
    assert np.array_equal(data.test_images.numpy().reshape(3, -1), test)
    assert data.train_labels.tolist() == [0, 2, 1] * (len(train) // 3)
    assert data.classes == ("cat", "dog", "ship") and data.levels == 255
    assert data.name == ("CIFAR-100" if many else "CIFAR-10")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def test_cifar_refuses_code_and_damage(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "c"
    write_cifar(folder, rng, False)
    batch = folder / "data_batch_3"
    whole = batch.read_bytes()
    for content, reason in (
        (pickle.dumps({b"data": Evil(), b"labels": []}), r"asks for \w+.system"),
        (whole[: len(whole) // 2], "not a complete CIFAR file"),
        (b"", "not a complete CIFAR file"),
        (pickle.dumps({b"data": np.zeros((3, 9), np.uint8), b"labels": [0]}), "32x32 RGB"),
        (pickle.dumps({b"labels": [0]}), "not a complete CIFAR file"),
    ):
        batch.write_bytes(content)
        with pytest.raises(DataError, match=reason) as caught:
            load("cifar10", folder, 32)
        assert "data_batch_3" in str(caught.value) and "\n" not in str(caught.value)
    batch.unlink()
    with pytest.raises(DataError, match="data_batch_3: missing"):
        load("cifar10", folder, 32)


# -- folders -------------------------------------------------------------------------------------
def write_folder(root: Path, rng: np.random.Generator, shape: tuple[int, ...], test: str) -> dict:
    out = {}
    for part in ("train", test):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, shape).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
                out[part, name, i] = pixels
    return out


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_folder(tmp_path: Path, rng: np.random.Generator, shape: tuple, test: str) -> None:
    pixels = write_folder(tmp_path / "bugs", rng, shape, test)
    data = load("folder", tmp_path / "bugs", 6)
    assert data.name == "bugs" and data.classes == ("ant", "bee")
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    for part, images in (("train", data.train_images), (test, data.test_images)):
        expected = [pixels[part, name, i] for name in ("ant", "bee") for i in range(2)]
        shown = images.permute(0, 2, 3, 1).numpy().reshape(4, *shape)
        assert np.array_equal(shown, np.stack(expected))


def test_folder_mixes_grey_and_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = write_folder(tmp_path, rng, (4, 4), "test")
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "train" / "ant" / "0.png")
    data = load("folder", tmp_path, 4)
    assert data.train_images.shape == (4, 3, 4, 4) and bool((data.train_images[0] == 7).all())
    assert np.array_equal(data.train_images[1, 2].numpy(), pixels["train", "ant", 1])


def test_folder_errors(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"no train and test .* give a folder with"):
        load("folder", tmp_path, None)
    write_folder(tmp_path, rng, (4, 4), "test")
    with pytest.raises(DataError, match=r"4x4 with 1 channel, the model takes 8x8; resize"):
        load("folder", tmp_path, 8)
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(tmp_path / "test" / "bee" / "2.jpg")
    with pytest.raises(DataError, match=r"2.jpg: 5x4, but .*0.png is 4x4; resize"):
        load("folder", tmp_path, None)
    picture = tmp_path / "test" / "bee" / "2.jpg"
    Image.fromarray(rng.integers(0, 256, (64, 64)).astype(np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:900])
    with pytest.raises(DataError, match=r"2.jpg: damaged picture"):
        load("folder", tmp_path, None)
    picture.unlink()
    (tmp_path / "test" / "cat").mkdir()
    with pytest.raises(DataError, match=r"class 'cat' is in test but not in train"):
        load("folder", tmp_path, None)
    (tmp_path / "train" / "cat").mkdir()
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    deep.save(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(DataError, match="convert it to 8-bit grey or RGB"):
        load("folder", tmp_path, None)


# -- packed JPEG ---------------------------------------------------------------------------------
def jpeg_arrays(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    arrays: dict[str, Any] = {"classes": np.array(["up", "down"])}
    files: dict[str, list[bytes]] = {}
    for part, count in (("train", 4), ("test", 2)):
        files[part] = []
        for _ in range(count):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(buffer, "jpeg")
            files[part].append(buffer.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files[part]), np.uint8)
        ends = np.cumsum([0, *(len(file) for file in files[part])])
        arrays[f"{part}_offsets"] = ends.astype(np.int64)
        arrays[f"{part}_labels"] = np.arange(count).astype(np.uint8) % 2
    return arrays, files


def test_jpeg(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays, files = jpeg_arrays(rng)
    path = tmp_path / "cifar10_jpeg.npz"
    np.savez(path, **arrays)
    data = load("jpeg", path, 8)
    assert data.name == "CIFAR-10 (JPEG)" and data.classes == ("up", "down")
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    for part, images in (("train", data.train_images), ("test", data.test_images)):
        decoded = [np.asarray(Image.open(io.BytesIO(file))) for file in files[part]]
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(decoded))
    np.savez(path, **arrays, name=np.array("arrows"))
    assert load("jpeg", path, None).name == "arrows"


def test_jpeg_errors(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays, _ = jpeg_arrays(rng)
    path = tmp_path / "a.npz"
    broken = {
        "offsets end at": {"train_jpeg": arrays["train_jpeg"][:-5]},
        "do not cut": {"test_offsets": arrays["test_offsets"][::-1].copy()},
        "train picture 1: damaged picture": {
            "train_jpeg": np.where(
                np.arange(len(arrays["train_jpeg"])) >= arrays["train_offsets"][1],
                np.uint8(0),
                arrays["train_jpeg"],
            )
        },
        "4 train pictures but 3 labels": {"train_labels": arrays["train_labels"][:3]},
        "labels 0..7 for 2 classes": {"test_labels": np.array([0, 7], np.uint8)},
        r"not a complete \.npz": {"classes": np.array([object()])},
    }
    for reason, change in broken.items():
        np.savez(path, **(arrays | change))
        with pytest.raises(DataError, match=reason) as caught:
            load("jpeg", path, None)
        assert "\n" not in str(caught.value)
    np.savez(path, **{k: v for k, v in arrays.items() if k != "test_labels"})
    with pytest.raises(DataError, match="array 'test_labels' is missing"):
        load("jpeg", path, None)
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"not a complete \.npz"):
        load("jpeg", path, None)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not a complete \.npz"):
        load("jpeg", path, None)


# -- shared --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in loaders() if n != "digits"])
def test_missing_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"^{name} needs a path; (unpack|give)"):
        load(name, None, None)
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; (unpack|give)"):
        load(name, tmp_path / "nowhere", None)


def test_unknown_name_and_wrong_size() -> None:
    with pytest.raises(DataError, match="no data set 'mnist'; known: digits, cifar10"):
        load("mnist", None, None)
    with pytest.raises(DataError, match="8x8 with 1 channel, the model takes 28x28"):
        load("digits", None, 28)


@pytest.mark.parametrize(
    ("shape", "patch"), [((2, 3, 8, 4), 2), ((1, 1, 8, 8), 4), ((2, 2, 3, 3), 3)]
)
def test_patchify(shape: tuple[int, int, int, int], patch: int) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    n, c, h, w = shape
    expected = [
        [
            [
                int(images[i, k, row * patch + y, column * patch + x])
                for y in range(patch)
                for x in range(patch)
                for k in range(c)
            ]
            for row in range(h // patch)
            for column in range(w // patch)
        ]
        for i in range(n)
    ]
    out = patchify(images, patch)
    assert out.dtype == torch.int64 and out.tolist() == expected


def test_patchify_refuses() -> None:
    with pytest.raises(ValueError, match="patches of 3x3 do not divide pictures of 8x6"):
        patchify(torch.zeros(1, 1, 8, 6, dtype=torch.uint8), 3)
