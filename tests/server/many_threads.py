"""A job in a module that sets torch's threads when a worker imports it, as a user's own might."""

import torch

torch.set_num_threads(3)


def threads(name: str) -> int:
    return torch.get_num_threads()
