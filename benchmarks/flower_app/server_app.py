"""A server that averages the clients' models and measures every group after each round."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from task import held_out_groups, net, partition

torch.set_num_threads(1)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the rounds that the run configuration names; write when each ended."""
    config = context.run_config
    records, clients = str(config["records"]), int(config["clients"])
    test, groups = partition(records, -1), held_out_groups(records)
    features, labels = test.tensors
    model = net(features.shape[1])
    ends: list[float] = []
    trained: list[int] = []

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        with torch.no_grad():
            right = ((model(features).squeeze(1) > 0) == labels.bool()).numpy()
        ends.append(time.time())
        by_group = {f"accuracy-{g}": float(right[groups == g].mean()) for g in set(groups.tolist())}
        return MetricRecord({"accuracy": float(right.mean()), **by_group})

    def count(replies: list[RecordDict], key: str) -> MetricRecord:
        trained.append(len(replies))
        return MetricRecord({"clients": len(replies)})

    result = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_available_nodes=clients,
        train_metrics_aggr_fn=count,
    ).start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=int(config["rounds"]),
        evaluate_fn=evaluate,
    )
    last = result.evaluate_metrics_serverapp[int(config["rounds"])]
    written = Path(str(config["result"]))
    beside = written.with_suffix(".part")
    beside.write_text(json.dumps({"ends": ends, "trained": trained, **last}))
    beside.rename(written)
