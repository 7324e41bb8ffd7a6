"""Two real processes (gloo, on the CPU) have the domains, the map, the affinity and the count of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from own_processes import in_two_processes
from torch import Tensor

from vecaf_hf.augmentation import CEACallback, TextEncoder
from vecaf_hf.cost import CostMeter
from vecaf_hf.selection.candidates import Candidates

N, D, DT = 40, 6, 4
PROMPTS = ["It's a snowy day.", "It's a foggy day."]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Letters(TextEncoder):
    """Texts by their letters, without a model."""

    is_dual, name_or_path, truncated = False, "letters", 0

    def __init__(self) -> None:
        self.device, self.forwards = None, 0

    def release(self) -> None:
        pass

    def encode(self, texts: Any) -> Tensor:
        return torch.stack([randn(DT, seed=sum(map(ord, text))) for text in texts])


def boundary(accelerator: Accelerator) -> dict[str, Any]:
    """What two loops begin with, and a batch of each process in between."""
    head, meter = torch.nn.Linear(D, 2), CostMeter()
    options = {"domain_prompt": PROMPTS, "toward": "learned_difference", "domain_affinity": 0.1}
    callback = CEACallback(Letters(), [f"caption {index}" for index in range(N)], **options)
    callback.read_captions(range(N), torch.arange(N) % 3, [])
    callback.prepare(head, D, accelerator, meter, loops=2, seed=7)
    candidates = Candidates(torch.arange(N), embeddings=randn(N, D, seed=1))
    found: dict[str, Any] = {}
    for loop in range(2):
        callback.running.enter_loop(loop)
        # Whatever a process has drawn before.
        torch.manual_seed(accelerator.process_index)
        weighed = callback.running.before_selection(candidates)
        callback.running.begin_loop(candidates.take(torch.arange(0, N, 3)), refit=False)
        found[f"relevance{loop}"], found[f"moved{loop}"] = weighed.relevance, weighed.embeddings
        found |= {f"{name}{loop}": tensor for name, tensor in callback.running.state_dict().items()}
        with callback.batch(torch.arange(0, 12 // accelerator.num_processes * 3, 3)):
            head(candidates.embeddings[: 12 // accelerator.num_processes])
    work = meter.work["auxiliary"]
    return found | {"samples": torch.tensor(work.samples), "flops": torch.tensor(work.flops)}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    torch.save(boundary(accelerator), out / f"{accelerator.process_index}.pt")


def test_two_processes_have_what_one_has(tmp_path: Path) -> None:
    in_two_processes(main, tmp_path)
    alone = boundary(Accelerator(cpu=True))
    assert {"map.out.weight0", "domains1", "relevance1"} < alone.keys()
    assert torch.equal(alone["domains0"], 1 - alone["domains1"])
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            assert torch.equal(found[name], tensor), name
