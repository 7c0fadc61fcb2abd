"""Threads that wait for each other busily make small networks slow on shared machines, so there is only one."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
