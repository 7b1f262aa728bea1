"""Two ranks' contrastive loss and gradient on given images: ``FILE_OF_IMAGES FOLDER``. Run by `test_contrastive.py`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from selftrain_core.contrastive import nt_xent

RANKS = 2


def main(rank: int, images: str, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS)
    first, second, ids, weight = torch.load(images, weights_only=True)
    mine, weight = slice(rank, None, RANKS), weight.double().requires_grad_()
    loss, won = nt_xent(first[mine].double() @ weight, second[mine].double() @ weight, ids[mine], 0.2)
    loss.backward()
    torch.save({"loss": loss.detach(), "won": won, "gradient": weight.grad}, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(main, sys.argv[1:], nprocs=RANKS)
