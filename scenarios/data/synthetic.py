"""Made-up people: groups that differ in exactly the ways that a scenario states.

Within a class the features of a group are independent and normal with standard
deviation 1, so the best classifier of a group is linear and its accuracy is
known: Φ(SEPARATION / 2) = .894 for as many positives as negatives without
label noise, whatever the shifts.

- *rule*: the classes' means are ``SEPARATION`` apart, along a direction w that all features share in and
  all groups have in common;
- ``feature_shift`` s moves both means of a group by s in every feature, up or down;
- ``concept_shift`` c turns the group's direction away from w by c · 90°: at 1 the common rule tells
  nothing about it;
- ``label_noise``: that share of a group's labels is turned round, after the positives were counted. The
  share of positives is then ``base_rate`` (1 − noise) + (1 − ``base_rate``) noise.
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
"""Features end this many standard deviations beyond 0 and the largest shift."""

CLASSES = ("no", "yes")


def synthetic(section: Synthetic) -> Source:
    """Return the source that a section ``[data.synthetic]`` describes.

    The same section gives the same records. A group's records do not change with
    the groups that stand after it.
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
    """Make the records, group after group; features beyond ±``limit`` are cut off."""
    import pandas as pd

    shared = _direction(np.random.SeedSequence(section.seed), section.features)
    parts = []
    for index, (name, group) in enumerate(section.groups.items()):
        own = np.random.SeedSequence(section.seed, spawn_key=(index,))
        features, positive = _people(group, shared, own)
        part = pd.DataFrame(features.clip(-limit, limit), columns=[f"x{i}" for i in range(section.features)])
        part["label"] = np.where(positive, CLASSES[1], CLASSES[0])
        part["group"] = name
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _people(
    group: SyntheticGroup, shared: npt.NDArray[np.float64], own: np.random.SeedSequence
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the features and labels of one group: negatives, then positives, some turned round."""
    from sklearn.datasets import make_blobs

    for_direction, for_signs, for_people, for_noise = own.spawn(4)
    angle = group.concept_shift * math.pi / 2
    other = _direction(for_direction, len(shared))
    other -= (other @ shared) * shared
    direction = math.cos(angle) * shared + math.sin(angle) * other / np.linalg.norm(other)
    signs = np.random.default_rng(for_signs).choice([-1.0, 1.0], len(shared))
    middle, half = group.feature_shift * signs, SEPARATION / 2 * direction
    positives = round(group.base_rate * group.size)
    features, label = make_blobs(
        n_samples=[group.size - positives, positives],
        centers=np.stack([middle - half, middle + half]),
        cluster_std=1.0,
        shuffle=False,
        random_state=int(for_people.generate_state(1)[0]),
    )
    turned = np.random.default_rng(for_noise).permutation(group.size) < round(group.label_noise * group.size)
    return features, (label == 1) ^ turned


def _direction(seed: np.random.SeedSequence, features: int) -> npt.NDArray[np.float64]:
    """Return a direction of length 1 that all features share in."""
    rng = np.random.default_rng(seed)
    made = rng.uniform(0.5, 1.5, features) * rng.choice([-1.0, 1.0], features)
    return np.asarray(made / np.linalg.norm(made))
