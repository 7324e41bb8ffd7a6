"""RHO-LOSS, Eq. 3."""

import torch

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy


def chosen(losses: torch.Tensor, irreducible: torch.Tensor, budget: int) -> list[int]:
    candidates = Candidates(torch.arange(len(losses)), losses=losses, irreducible=irreducible)
    options = SelectionOptions(strategy="rho_loss")
    return run_strategy(STRATEGIES["rho_loss"], candidates, budget, options, seed=0).indices.tolist()


def test_the_largest_reducible_losses():
    generator = torch.Generator().manual_seed(0)
    losses, irreducible = torch.rand(2, 40, generator=generator)
    reducible = (losses - irreducible).tolist()
    assert chosen(losses, irreducible, 15) == sorted(range(40), key=reducible.__getitem__, reverse=True)[:15]


def test_a_wrong_label_is_left_out_and_ties_go_to_the_lower_index():
    losses, irreducible = torch.tensor([1.0, 9.0, 2.0, 1.0]), torch.tensor([0.5, 9.0, 0.5, 0.5])
    assert chosen(losses, irreducible, 3) == [2, 0, 3]


def test_it_wants_ten_candidates_for_each_sample():
    wanting = {name: strategy.candidates_per_sample for name, strategy in STRATEGIES.items()}
    assert {name: count for name, count in wanting.items() if count} == {
        "rho_loss": 10,
        "learn_loss": 10,
        "ta_vaal": 10,
    }
