"""fedtoll for scikit-learn and fairlearn: :class:`DPClassifier`, DP-SGD with ``fit`` and ``predict``.

>>> DPClassifier(epsilon=0.5, hidden=(32,))
DPClassifier(epsilon=0.5, hidden=(32,))
"""

from __future__ import annotations

from fedtoll.clients.classifier import DPClassifier

__all__ = ["DPClassifier"]
