"""`tfds:NAME`: a dataset of TensorFlow Datasets that was prepared as ArrayRecord. TensorFlow is not needed.

The splits are `data.train_split` and `data.eval_split`, in the split syntax of TFDS.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, Literal

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import load_image
from igpt_jax.data.sources.base import Record, Source, Split
from igpt_jax.errors import InputError, first_line, require
from igpt_jax.files import normal_form


class TfdsSource(Source):
    """The images under the feature `image`, and as label the feature `label` where it is one integer.

    `load_image` decodes the images, not TFDS, so that the pixels are the same on every machine.
    """

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        require(bool(where), "data.source", "name the dataset: tfds:NAME")
        self.name = cfg.source
        self._channels: Literal[1, 3] = cfg.channels
        self._arguments = (cfg, split, where)
        self._split = cfg.train_split if split == "train" else cfg.eval_split
        self._records, label = _open(where, self._split)
        self._labelled = label is not None and not label.shape and np.issubdtype(label.np_dtype, np.integer)
        if self._labelled:
            self.class_names = tuple(map(normal_form, getattr(label, "names", ())))
        # the full name has a version
        identity = (self._records.dataset_info.full_name, self._split, len(self._records))
        self.digest = hashlib.sha256(repr(identity).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return TfdsSource, self._arguments  # the open files stay here

    def with_frames(self, frames: int | None) -> TfdsSource:
        return self  # it holds pictures

    def __len__(self) -> int:
        return len(self._records)

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        record = self._records[i]
        try:
            image = load_image(io.BytesIO(record["image"]), self._channels)
        except InputError as error:
            raise InputError(f"data.source: record {i} of {self.name} ({self._split}): {error}") from None
        return Record(image=image, label=int(record["label"]) if self._labelled else -1)


def _open(name: str, split: str) -> tuple[Any, Any]:
    """The records of a split, their images still encoded, and the feature `label` or None."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        lacks = f"data.source: tfds:{name} needs TensorFlow Datasets ({first_line(error)})"
        raise InputError(f"{lacks}; pip install 'igpt_jax[tfds]'") from None
    advice = (
        f"prepare it once with: tfds build {name} --file_format=array_record (for most image datasets this needs "
        "TensorFlow; reading does not: pip install 'igpt_jax[openai]')"
    )
    try:
        builder: Any = tfds.builder(name, file_format="array_record")
        prepared, features = builder.is_prepared(), dict(builder.info.features or {})
    except tfds.core.DatasetNotFoundError:
        raise InputError(f"data.source: TFDS knows no dataset {name!r}, and none of that name is prepared") from None
    except Exception as error:  # a builder runs its own code, may need TensorFlow, and may raise anything
        raise InputError(f"data.source: TFDS cannot open {name!r} ({first_line(error)}); {advice}") from None
    require(prepared, "data.source", f"TFDS has not prepared {name!r} as ArrayRecord; {advice}")
    is_image = isinstance(features.get("image"), tfds.features.Image)
    require(is_image, "data.source", f"tfds:{name} has no image under 'image', only {', '.join(features)}")
    try:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (ValueError, KeyError) as error:
        raise InputError(f"data.source: split {split!r} of tfds:{name}: {first_line(error)}") from None
    return records, features.get("label")
