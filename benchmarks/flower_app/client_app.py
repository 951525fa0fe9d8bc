"""A client that trains with DP-SGD by Opacus, as Flower's and Opacus's own guides write it."""

from __future__ import annotations

import warnings

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from opacus import PrivacyEngine
from task import net, partition
from torch import nn
from torch.utils.data import DataLoader

warnings.filterwarnings("ignore", category=UserWarning)
torch.set_num_threads(1)
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client for one epoch."""
    config = context.run_config
    data = partition(str(config["records"]), int(context.node_config["partition-id"]))
    model = net(data.tensors[0].shape[1])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=float(config["learning-rate"]))
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(data, batch_size=int(config["batch-size"])),
        noise_multiplier=float(config["noise-multiplier"]),
        max_grad_norm=float(config["clip"]),
    )
    criterion = nn.BCEWithLogitsLoss()
    private.train()
    for features, labels in loader:
        optimizer.zero_grad()
        criterion(private(features).squeeze(1), labels).backward()
        optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(private._module.state_dict()),
            "metrics": MetricRecord({"num-examples": len(data)}),
        }
    )
    return Message(content, reply_to=message)
