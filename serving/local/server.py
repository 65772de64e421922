"""The model server as a process: config in, uvicorn until SIGTERM."""

import logging
import os
import sys

import torch
import uvicorn

from everlearn.access_log import AccessLog
from everlearn.config import ModelServer, Service
from serving.local.app import make_app
from serving.local.model import Model, resolve

SWITCH_SECONDS = 0.0005
"""Between engine and HTTP threads; Python's 5 ms would hold up each of an answer's 40 steps."""

DRAIN_SECONDS = 30
"""After SIGTERM, for answers under way."""


def run(service: Service) -> None:
    """Serve until told to stop."""
    options = service.model_server
    torch.set_num_threads(thread_count(options))
    sys.setswitchinterval(SWITCH_SECONDS)
    model = Model(
        resolve(service.root, options.model),
        options.max_batch,
        dtype=getattr(torch, options.dtype),
    )
    name = options.served_model_name or options.model
    app = make_app(model, name=name, max_batch=options.max_batch, max_adapters=options.max_adapters)
    app.add_middleware(AccessLog, every=service.logging.requests)
    logging.getLogger(__name__).info("serving %s at %s:%d", name, options.host, options.port)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def thread_count(options: ModelServer) -> int:
    """As configured; 0 leaves half of the cores to the other processes."""
    return options.threads or max(1, (os.cpu_count() or 2) // 2)
