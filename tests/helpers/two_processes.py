"""Training in two processes, which import what they run by its name."""

import os
import socket

import torch
from letters import PROMPTS, model, train

from llm_bridge.models.processes import workers
from llm_bridge.models.spec import ModelSpec


def process(rank, port, config, out):
    """Train as one of two processes."""
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with workers() as group:
        train(model(), PROMPTS, config, out=out, group=group, checkpoint_every=2)


def two_processes(config, out):
    """Train in two processes; returns the model that they saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        process, (port, config, out), nprocs=2, start_method="spawn"
    )
    return ModelSpec(out / "model").load()
