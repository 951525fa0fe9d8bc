"""Synthetic records: groups that differ in exactly the ways that a scenario states.

Within a class, the features of a group are independent and normal with standard
deviation 1, so the best classifier of a group is linear and its accuracy is known:
Φ(SEPARATION / 2) = .894 if positives and negatives are equally many and there is no
label noise, whatever the shifts.

- *rule*: the means of the classes are ``SEPARATION`` apart, along a direction w with a component in every
  feature, the same for all groups;
- ``feature_shift`` s moves both means of a group by s in every feature, up or down;
- ``concept_shift`` c rotates the group's direction away from w by c · 90°: at 1, the common rule predicts
  nothing about the group;
- ``label_noise``: that share of a group's labels is flipped after the positives were counted, so the share
  of positives becomes ``base_rate`` (1 − noise) + (1 − ``base_rate``) noise.
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.config import Synthetic, SyntheticGroup
from fedtoll.scenarios.data.source import Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

SEPARATION = 2.5
"""The distance between the means of the two classes, in standard deviations."""

SPREAD = 4.0
"""Features are clipped at this many standard deviations plus the largest shift."""

CLASSES = ("no", "yes")


def synthetic(section: Synthetic) -> Source:
    """Return the source that a section ``[data.synthetic]`` describes.

    The same section gives the same records, and the records of a group do not depend
    on the groups listed after it.
    """
    limit = SPREAD + max(abs(group.feature_shift) for group in section.groups.values())
    sizes = {name: group.size for name, group in section.groups.items()}
    rows = sum(sizes.values())
    return Source(
        name="synthetic",
        title=f"Made-up records of {len(sizes)} groups",
        archive=None,
        read=functools.partial(read, section, limit),
        version=1,
        fingerprint="",
        content=lambda: hashlib.sha256(section.model_dump_json().encode()).hexdigest(),
        licence="none needed: nobody is in them",
        citation="fedtoll, from scikit-learn's make_blobs",
        rows=rows,
        label="label",
        positive=CLASSES[1],
        classes=CLASSES,
        columns=tuple(
            Numeric(f"x{i}", centre=0, scale=1, low=-limit, high=limit) for i in range(section.features)
        ),
        counts={"group": sizes},
        traps=("Made up: what is found here says how a method works, and nothing about people.",),
    )


def read(section: Synthetic, limit: float, folder: Path) -> pd.DataFrame:
    """Generate the records, group after group, with features clipped to ±``limit``."""
    import pandas as pd

    shared = _direction(np.random.SeedSequence(section.seed), section.features)
    parts = []
    for index, (name, group) in enumerate(section.groups.items()):
        seed = np.random.SeedSequence(section.seed, spawn_key=(index,))
        features, positive = _group(group, shared, seed)
        part = pd.DataFrame(features.clip(-limit, limit), columns=[f"x{i}" for i in range(section.features)])
        part["label"] = np.where(positive, CLASSES[1], CLASSES[0])
        part["group"] = name
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _group(
    group: SyntheticGroup, shared: npt.NDArray[np.float64], seed: np.random.SeedSequence
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the features and labels of one group: negatives, then positives, before some are flipped."""
    from sklearn.datasets import make_blobs

    for_direction, for_signs, for_features, for_noise = seed.spawn(4)
    angle = group.concept_shift * math.pi / 2
    orthogonal = _direction(for_direction, len(shared))
    orthogonal -= (orthogonal @ shared) * shared
    direction = math.cos(angle) * shared + math.sin(angle) * orthogonal / np.linalg.norm(orthogonal)
    signs = np.random.default_rng(for_signs).choice([-1.0, 1.0], len(shared))
    middle, half = group.feature_shift * signs, SEPARATION / 2 * direction
    positives = round(group.base_rate * group.size)
    features, label = make_blobs(
        n_samples=[group.size - positives, positives],
        centers=np.stack([middle - half, middle + half]),
        cluster_std=1.0,
        shuffle=False,
        random_state=int(for_features.generate_state(1)[0]),
    )
    flips = round(group.label_noise * group.size)
    flipped = np.random.default_rng(for_noise).permutation(group.size) < flips
    return features, (label == 1) ^ flipped


def _direction(seed: np.random.SeedSequence, features: int) -> npt.NDArray[np.float64]:
    """Return a direction of length 1 with a component of at least a third of the largest in every feature."""
    rng = np.random.default_rng(seed)
    direction = rng.uniform(0.5, 1.5, features) * rng.choice([-1.0, 1.0], features)
    return np.asarray(direction / np.linalg.norm(direction))
