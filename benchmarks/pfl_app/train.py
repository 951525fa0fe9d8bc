"""One run of pfl-research, non-private: run in pfl's own environment, never in the product's.

Arguments: the file of records, rounds, batch size, learning rate. Prints JSON: the seconds of every round,
and the last accuracy.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Net(nn.Module):
    """The MLP, with the loss and the metrics that pfl asks a module for."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return one logit a row."""
        return self.layers(features).squeeze(1)

    def loss(self, features: torch.Tensor, labels: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Return the mean loss of a batch."""
        return nn.functional.binary_cross_entropy_with_logits(self(features), labels)

    @torch.no_grad()
    def metrics(
        self, features: torch.Tensor, labels: torch.Tensor, eval: bool = False
    ) -> dict[str, Weighted]:
        """Return the accuracy of a batch."""
        right = ((self(features) > 0) == labels.bool()).sum().item()
        return {"accuracy": Weighted(right, len(labels))}


class Clock(TrainingProcessCallback):
    """Notes when every round ended."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the time, and go on."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main(file: str, rounds: int, batch: int, rate: float) -> None:
    """Train all clients in every round and print how long each round took."""
    torch.set_num_threads(1)
    with np.load(file, allow_pickle=False) as arrays:
        features = torch.from_numpy(arrays["features"])
        labels = torch.from_numpy(arrays["labels"]).float()
        client = arrays["client"]
    users = {
        k: Dataset([features[client == k], labels[client == k]], user_id=str(k))
        for k in range(int(client.max()) + 1)
    }
    net = Net(features.shape[1])
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    data = FederatedDataset(users.__getitem__, MinimizeReuseUserSampler(list(users)))
    clock = Clock()
    held_out = Dataset([features[client == -1], labels[client == -1]])
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,  # clients do not evaluate; the server does, after every round
            train_cohort_size=len(users),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=rate, local_batch_size=batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[CentralEvaluationCallback(held_out), clock],
        send_metrics_to_platform=False,
    )
    accuracy = net.metrics(*held_out.raw_data)["accuracy"].overall_value
    rounds_took = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    print(json.dumps({"rounds": rounds_took, "accuracy": float(accuracy)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
