"""The folder of a dense index: written atomically, opened memory-mapped, checked.

Beside the manifest ``format.json`` (the index's card: encoder, dimension, metric, factory, recall,
digest, checksums) lie ``index.faiss``, the passages as two arrays, and for coarse codes
``vectors.npy``, from which candidates are scored again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.errors import DataFormatError, DataNotFoundError, IndexFormatError
from search_env.retrieval.dense.card import EncoderCard, card_from, fingerprint
from search_env.retrieval.dense.nearest import Rows, rows_of
from search_env.retrieval.digests import digest
from search_env.retrieval.storage.array_folder import (
    DENSE,
    map_table,
    read_manifest,
    rejected,
    verify,
    write_index,
)
from search_env.retrieval.storage.passages import Passages

FILE = "index.faiss"
VECTORS = "vectors.npy"
ENCODER = "encoder"
"""A folder, or a link to one, that is used as the model in place of the recorded path."""

_PACKAGES = ("search-env", "faiss-cpu", "faiss-gpu", "numpy", "torch", "transformers")
_METRICS = {0: "inner_product", 1: "l2"}  # faiss.METRIC_INNER_PRODUCT, METRIC_L2


class Model(NamedTuple):
    """The encoder that an index was made with: how to use it, where it was, and which it was."""

    card: EncoderCard
    folder: str
    fingerprint: str


class DenseIndex(NamedTuple):
    """An opened index.

    Attributes:
        faiss: The index of FAISS, memory-mapped, its search settings made.
        passages: Its documents.
        rows: The vectors, where they are at hand; else None.
        model: The encoder.
        settings: ``nprobe`` or ``ef``, as they were found to give the recall of the card.
        manifest: The card.
    """

    faiss: Any
    passages: Passages
    rows: Rows | None
    model: Model
    settings: dict[str, int]
    manifest: dict[str, Any]


def metric_of(index: Any) -> str:
    """Return the name of an index's metric.

    Raises:
        DataFormatError: It is neither the inner product nor the squared distance.
    """
    name = _METRICS.get(index.metric_type)
    if name is None:
        raise DataFormatError(
            f"Expected an index of inner products or squared distances, got FAISS's metric "
            f"{index.metric_type}. Build another index."
        )
    return name


def read_faiss(path: Path) -> Any:
    """Open a file of FAISS memory-mapped.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: FAISS cannot read it.
    """
    import faiss

    if not path.is_file():
        raise DataNotFoundError(
            f"Expected an index of FAISS at {path}, got no such file. Check the path."
        )
    try:
        # Of the two ways to map, this one maps flat vectors and graphs too; needs faiss 1.11.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2] or str(error)
        raise DataFormatError(
            f"{path}: expected an index of FAISS, got: {reason[:200]}. Build it again, or download "
            "it again (parts must be joined in order)."
        ) from error


def apply_settings(index: Any, settings: Mapping[str, int]) -> None:
    """Set ``nprobe`` (inverted lists that a query visits) or ``ef`` (nodes of a graph)."""
    import faiss

    if "nprobe" in settings:
        faiss.extract_index_ivf(index).nprobe = settings["nprobe"]
    if "ef" in settings:
        index.hnsw.efSearch = settings["ef"]


def settings_of(index: Any) -> dict[str, int]:
    """Return the search settings of an index: ``nprobe``, ``ef``, or none for a flat one."""
    import faiss

    if isinstance(index, faiss.IndexHNSW):
        return {"ef": int(index.hnsw.efSearch)}
    ivf = faiss.try_extract_index_ivf(index)
    return {} if ivf is None else {"nprobe": int(ivf.nprobe)}


def write_dense_index(
    out: Path,
    passages: Passages,
    index: Any,
    model: Model,
    *,
    kind: str,
    factory: str,
    recall: Mapping[str, Any] | None,
    vectors: Iterable[NDArray[Any]] | None = None,
    file: Path | None = None,
) -> None:
    """Write an index to a folder, whole or not at all.

    Args:
        out: A new folder, an empty one, or an index to replace.
        passages: The documents, as many as vectors in the index.
        index: Of FAISS, with the search settings to store.
        model: The encoder of its vectors.
        kind: How it was built, for the card.
        factory: FAISS's factory string, for the card; "" where it is not known.
        recall: What was measured; None for nothing.
        vectors: All vectors in blocks, to be stored in their type; None for none.
        file: A file that holds the index already: it is linked or copied instead of written.

    Raises:
        ConfigurationError: The folder is another one.
        StorageError: It cannot be written; nothing is left behind.
    """
    import faiss

    def write_more(new: Path) -> None:
        if file is None:
            faiss.write_index(index, str(new / FILE))
        else:
            _link_or_copy(file, new / FILE)
        if vectors is not None:
            _write_vectors(new / VECTORS, vectors, (len(passages), index.d))

    manifest: dict[str, object] = {
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "parameters": {
            "kind": kind,
            "factory": factory,
            "metric": metric_of(index),
            "dimension": int(index.d),
            "settings": settings_of(index),
            "encoder": model.card.as_json(),
            "model": model.folder,
            "fingerprint": model.fingerprint,
        },
        "recall": recall,
        "counts": {"passages": len(passages)},
        "digest": digest(passages),
    }
    table = passages.table
    arrays: dict[str, NDArray[Any]] = {
        "passages.blob": table.blob,
        "passages.offsets": table.offsets,
    }
    write_index(out, arrays, manifest, DENSE, write_more)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _link_or_copy(file: Path, new: Path) -> None:
    """Give a large file a second name; copy it where that is impossible or would change it."""
    file, ours = file.resolve(), new.parent / "passages.blob.npy"
    # What is written gets the usual permissions, and a second name shares them with the first.
    same = _owner_and_mode(file) == _owner_and_mode(ours)
    try:
        if same:
            os.link(file, new)
            return
    except OSError:
        pass  # another file system, or one without links
    shutil.copyfile(file, new)


def _owner_and_mode(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_uid, stat.st_mode


def _write_vectors(path: Path, blocks: Iterable[NDArray[Any]], shape: tuple[int, int]) -> None:
    """Write blocks of vectors as one array, of which only a block is in memory."""
    array: NDArray[Any] | None = None
    start = 0
    for block in blocks:
        if array is None:
            array = np.lib.format.open_memmap(path, "w+", block.dtype, shape)
        array[start : start + len(block)] = block
        start += len(block)


def open_dense_index(path: Path, *, verify_all: bool = False) -> DenseIndex:
    """Open an index memory-mapped; with ``verify_all``, compare every byte with its checksum.

    Raises:
        IndexFormatError: It is missing, damaged, or of another version.
    """
    manifest = read_manifest(path, DENSE)
    if verify_all:
        verify(path, manifest, DENSE)
    passages = Passages(map_table(path, "passages", DENSE))
    try:
        parameters = manifest["parameters"]
        card = card_from(parameters["encoder"], path / "format.json")
        model = Model(card, str(parameters["model"]), str(parameters["fingerprint"]))
        index = read_faiss(path / FILE)
        written = {
            "passages": int(manifest["counts"]["passages"]),
            "dimension": int(parameters["dimension"]),
            "metric": str(parameters["metric"]),
        }
        settings = {str(name): int(value) for name, value in parameters["settings"].items()}
        apply_settings(index, settings)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise rejected(path, f"a bad index.faiss or format.json: {error}", DENSE) from error
    found = {"passages": index.ntotal, "dimension": index.d, "metric": metric_of(index)}
    if found != written or len(passages) != index.ntotal:
        raise rejected(path, f"{found} in index.faiss, {written} in format.json", DENSE)
    return DenseIndex(
        index, passages, _rows(path, index) or rows_of(index), model, settings, manifest
    )


def _rows(path: Path, index: Any) -> Rows | None:
    """Return how to get at the vectors that are stored beside an index; None without them."""
    if not (path / VECTORS).is_file():
        return None
    try:
        vectors = np.load(path / VECTORS, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the parser of a damaged header raises whatever it comes upon
        raise rejected(path, f"an unreadable {VECTORS} ({error})", DENSE) from error
    if vectors.shape != (index.ntotal, index.d) or vectors.dtype.kind != "f":
        raise rejected(path, f"{vectors.dtype} {vectors.shape} in {VECTORS}", DENSE)
    return np.asarray(vectors).__getitem__


def find_model(path: Path, model: Model, folder: str | None) -> Path:
    """Return the folder of an index's encoder, after checking that it is the same model.

    Args:
        path: The index.
        model: What its card says.
        folder: Where the user says that the model is; None looks at ``encoder`` in the index, then
            at the recorded place.

    Raises:
        DataNotFoundError: There is no model.
        IndexFormatError: It is another model.
    """
    own = path / ENCODER
    place = Path(folder).expanduser() if folder else own if own.exists() else Path(model.folder)
    if not (place / "config.json").is_file():
        raise DataNotFoundError(
            f"Expected the encoder of {path} in {place}, got no config.json there. Put the model's "
            f"folder, or a link to it, at {own}, or name it: faiss:{path}?model=FOLDER."
        )
    actual = fingerprint(place)
    if actual != model.fingerprint:
        raise IndexFormatError(
            f"Expected the model {Path(model.folder).name} ({model.fingerprint[:12]}) with which "
            f"{path} was made, got another one ({actual[:12]}) in {place}. Name the right folder "
            f"(faiss:{path}?model=FOLDER), or embed the corpus again with this model."
        )
    return place
