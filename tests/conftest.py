"""Workers of a parallel run take one thread each: networks as small as ours only wait for each other with more."""

import os

import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("reverie", deadline=None)  # a busy machine is no failure
settings.load_profile("reverie")
